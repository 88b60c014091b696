"""Continuous batching: the texts of padded batches, whatever was in the model before, and by no clock."""

import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

from evomerge.evaluators.continuous import ContinuousGenerator, live_generator
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.generation import LOOP_TOKENS, Generation, LiveGenerator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks
from tests.evaluators.conftest import build_llama

REPOSITORY = Path(__file__).parents[2]

ENDS = {"until": [".", "dog"], "max_gen_toks": 40, "do_sample": False}


def prompts(tokenizer: Any, count: int) -> list[tuple[str, dict[str, Any]]]:
    rng = random.Random(1)
    words = [tokenizer.convert_ids_to_tokens(number) for number in range(4, len(tokenizer))]
    return [(" ".join(rng.choices(words, k=rng.randint(2, 20))), ENDS) for _ in range(count)]


def continuous(model: Any, tokenizer: Any, batch_size: int, asked: Any) -> list[Generation]:
    subject = Subject(model, tokenizer, batch_size=batch_size, generation="continuous")
    generator = live_generator(subject)
    assert isinstance(generator, ContinuousGenerator)
    return generator.generate(asked)


def test_texts_are_those_of_single_rows_and_weights_leave_nothing_behind(tokenizer: Any) -> None:
    """A, B, A in one model whose weights change in place."""
    model, other = build_llama(len(tokenizer), seed=3), build_llama(len(tokenizer), seed=4)
    weights = [{k: v.clone() for k, v in each.state_dict().items()} for each in (model, other)]
    asked, found = prompts(tokenizer, 9), []
    for state in (weights[0], weights[1], weights[0]):
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(state[name])
        found.append(continuous(model, tokenizer, 3, asked))
        alone = LiveGenerator(pretrained=model, tokenizer=tokenizer, batch_size=1).generate(asked)
        assert found[-1] == alone
    assert found[0] == found[2] != found[1]
    assert model.config._attn_implementation == "sdpa", "as it was before"


def test_who_shares_a_pass_depends_on_prompts_and_answers_alone(tokenizer: Any) -> None:
    model, asked, runs = build_llama(len(tokenizer), seed=3), prompts(tokenizer, 7), []
    step = ContinuousBatchProcessor._generation_step
    for _ in range(3):
        sizes: list[int] = []

        def counted(self: Any, model: Any, sizes: list[int] = sizes) -> Any:
            sizes.append(len(self.scheduler.active_requests))
            return step(self, model)

        with mock.patch.object(ContinuousBatchProcessor, "_generation_step", counted):
            continuous(model, tokenizer, 3, asked)
        runs.append(sizes)
    assert runs[0] == runs[1] == runs[2]
    assert max(runs[0]) == 3, "no more rows under way than a batch has"


def test_loops_end_as_in_padded_batches(parrot: Any, tokenizer: Any) -> None:
    asked = [(f"Q: {word}", {"until": ["?"], "max_gen_toks": 90}) for word in ("cat", "dog is", "a")]
    found = continuous(parrot, tokenizer, 2, asked)
    assert found == live_generator(Subject(parrot, tokenizer, batch_size=2)).generate(asked)
    assert all(each.looped and each.tokens == 90 > LOOP_TOKENS for each in found)


def test_what_is_not_greedy_is_written_in_padded_batches(parrot: Any, tokenizer: Any) -> None:
    asked = [("Q: cat", {"max_gen_toks": 4, "repetition_penalty": 1.3})] * 3
    with mock.patch.object(ContinuousGenerator, "_pages", side_effect=AssertionError):
        assert len(continuous(parrot, tokenizer, 2, asked)) == 3


def test_a_failure_is_said_and_leaves_the_model_as_it_was(parrot: Any, tokenizer: Any) -> None:
    with (
        mock.patch.object(
            ContinuousBatchProcessor, "_generation_step", side_effect=ValueError("no such page")
        ),
        pytest.raises(RuntimeError, match="continuous batching failed: no such page"),
    ):
        continuous(parrot, tokenizer, 2, [("Q: cat", ENDS)])
    assert parrot.config._attn_implementation == "sdpa"
    assert continuous(parrot, tokenizer, 2, [("Q: cat", ENDS)])


def test_the_shipped_task_that_is_written_has_equal_texts() -> None:
    """Some items of `python_functions`, on the quickstart's base."""
    base = REPOSITORY / "experiments/quickstart/models/base"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    evaluator = LmEvalTasks(load_evaluator(REPOSITORY / "evaluators/python_functions/functions.yaml"))
    assert evaluator.writes("search")
    subject = Subject(model, tokenizer)
    items = evaluator._requests_for("search", evaluator._split("search"), subject).items[:8]
    asked = [(item[0].args[0], {**item[0].args[1], "max_gen_toks": 48}) for item in items]
    padded = live_generator(subject).generate(asked)
    assert continuous(model, tokenizer, 4, asked) == padded
