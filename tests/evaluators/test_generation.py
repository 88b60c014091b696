"""Generated answers: stock lm-eval's texts and scores, rows that end by themselves, loops."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.errors import ConfigError
from evomerge.evaluators.continuous import live_generator
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.generation import LOOP_TOKENS, Generation, LiveGenerator
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks
from tests.evaluators.conftest import DECLARATION, TASK, Bench, build_llama
from tests.evaluators.test_lm_eval_tasks import stock

WRITE = TASK[: TASK.index("metric_list")].replace("multiple_choice", "generate_until").replace(
    "doc_to_choice: choices\ndoc_to_target: answer", 'doc_to_target: "{{choices[answer]}}"'
) + (
    "generation_kwargs: {until: ['.', 'dog'], max_gen_toks: 90, do_sample: false}\n"
    "metric_list:\n"
    "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
    "  - {metric: chrf, aggregation: chrf, higher_is_better: true}\n"
    "  - {metric: bleu, aggregation: bleu, higher_is_better: true}\n"
)
DECLARED = DECLARATION.replace("acc, acc_norm", "exact_match, chrf, bleu")


def written(path: Path, subject: Subject, **changes: Any) -> tuple[Any, dict[str, str]]:
    """Our scores and the texts by prompt."""
    texts: dict[str, str] = {}

    class Spy(LiveGenerator):
        def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Generation]:
            found = super().generate(requests)
            texts.update({request[0]: each.text for request, each in zip(requests, found, strict=True)})
            return found

    def factory(subject: Subject) -> Spy:
        return Spy(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size)

    declaration = load_evaluator(path).model_copy(update=changes)
    return LmEvalTasks(declaration, factory).evaluate(subject, "search"), texts


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("seed", [0, 3])
def test_texts_and_scores_are_those_of_stock_lm_eval(
    bench: Bench, tokenizer: Any, batch_size: int, seed: int
) -> None:
    path = bench(WRITE, DECLARED, counts=(13, 4, 3))
    subject = Subject(build_llama(len(tokenizer), seed=seed), tokenizer, batch_size=batch_size)
    expected = stock(path, subject, "pets_search", bootstrap_iters=0)
    scores, texts = written(path, subject)
    for sample in expected["samples"]["pets_search"]:
        assert texts[sample["arguments"][0][0]] == sample["resps"][0][0]
    assert len(set(texts.values())) > 5
    for metric in ("exact_match", "chrf", "bleu"):
        ours = scores.metrics[f"pets.{metric}"]
        assert ours.value == pytest.approx(expected["results"]["pets_search"][f"{metric},none"])
        assert ours.items == 13


def test_generation_settings_pass_through(bench: Bench, subject: Subject) -> None:
    path = bench(WRITE, DECLARED, counts=(6, 4, 3))
    settings = {"max_gen_toks": 5, "until": ["cat"]}
    expected = stock(path, subject, "pets_search", bootstrap_iters=0, gen_kwargs=dict(settings))
    path.write_text(DECLARED + "gen_kwargs: {max_gen_toks: 5, until: [cat]}\n")
    scores, texts = written(path, subject)
    assert scores.items["pets.tokens"].max() <= 5
    for sample in expected["samples"]["pets_search"]:
        assert texts[sample["arguments"][0][0]] == sample["resps"][0][0]


@pytest.mark.parametrize("multiturn", [True, False])
def test_chats_are_those_of_stock_lm_eval(bench: Bench, tokenizer: Any, multiturn: bool) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} . "
        "{% endfor %}answer"
    )
    task = WRITE + "fewshot_config: {sampler: first_n, split: test}\n"
    declared = DECLARED + (
        "apply_chat_template: true\nnum_fewshot: 2\nsystem_instruction: the cat is red\n"
        f"fewshot_as_multiturn: {str(multiturn).lower()}\n"
    )
    path = bench(task, declared, counts=(4, 3, 3))
    subject = Subject(build_llama(len(tokenizer), max_position_embeddings=512), tokenizer)
    subject.tokenizer.model_max_length = 512
    try:
        scores, texts = written(path, subject)
        expected = stock(
            path, subject, "pets_search", bootstrap_iters=0, apply_chat_template=True,
            num_fewshot=2, system_instruction="the cat is red", fewshot_as_multiturn=multiturn,
        )  # fmt: skip
    finally:
        tokenizer.chat_template = None
        tokenizer.model_max_length = 128
    assert len(texts) == 4
    for sample in expected["samples"]["pets_search"]:
        assert texts[sample["arguments"][0][0]] == sample["resps"][0][0]
    assert scores.metrics["pets.tokens"].value > 0


REFUSES_SYSTEMS = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ message['content'] }} . {% endfor %}answer"
)


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        (None, "", r"E154\] .*pets.yaml.* apply_chat_template: .* cannot write .* as a chat; .* not set"),
        (REFUSES_SYSTEMS, "", None),
        (REFUSES_SYSTEMS, "system_instruction: be a cat\n",
         r"E154\] .*pets.yaml.* system_instruction: .* as a chat; System role not supported; leave it out"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_write_a_chat_is_named(
    bench: Bench, tokenizer: Any, template: str | None, system: str, said: str | None
) -> None:
    path = bench(WRITE, DECLARED + "apply_chat_template: true\n" + system, counts=(4, 3, 3))
    subject = Subject(build_llama(len(tokenizer)), tokenizer)
    tokenizer.chat_template = template
    try:
        if said is None:
            assert written(path, subject)[1]
            return
        with pytest.raises(ConfigError, match=said):
            written(path, subject)
    finally:
        tokenizer.chat_template = None


def counted_steps(model: Any) -> list[int]:
    steps: list[int] = []
    model.register_forward_hook(lambda *_: steps.append(1))
    return steps


def test_a_loop_is_marked_and_not_computed_to_its_end(parrot: Any, tokenizer: Any) -> None:
    prompts = [(f"Q: {word}", {"until": ["?"], "max_gen_toks": 110}) for word in ("cat", "dog is", "a")]
    stock_lm = HFLM(pretrained=parrot, tokenizer=tokenizer, batch_size=3)

    expected = stock_lm.generate_until(
        [Instance("generate_until", {}, prompt, i) for i, prompt in enumerate(prompts)],
        disable_tqdm=True,
    )
    steps = counted_steps(parrot)
    found = live_generator(Subject(parrot, tokenizer, batch_size=3)).generate(prompts)
    assert [each.text for each in found] == expected
    assert all(each.looped and each.tokens == 110 for each in found)
    assert LOOP_TOKENS < len(steps) <= LOOP_TOKENS + 16


def test_a_batch_ends_with_its_last_row(parrot: Any, tokenizer: Any) -> None:
    word = tokenizer.convert_ids_to_tokens(6)
    steps = counted_steps(parrot)
    prompts = [("Q: cat", {"until": [word], "max_gen_toks": 100})]
    (found,) = live_generator(Subject(parrot, tokenizer)).generate(prompts)
    assert not found.looped
    assert len(steps) == found.tokens <= 5
    assert word not in found.text


def test_equal_prompts_and_repeats_each_get_an_answer(parrot: Any, tokenizer: Any) -> None:
    prompt = ("Q: cat", {"max_gen_toks": 4})
    found = live_generator(Subject(parrot, tokenizer, batch_size=2)).generate([prompt] * 3)
    assert len(found) == 3
    assert len(set(found)) == 1


def test_loops_and_lengths_are_metrics(bench: Bench, parrot: Any, tokenizer: Any) -> None:
    task = WRITE.replace("until: ['.', 'dog']", "until: ['?']")
    path = bench(
        task, DECLARED.replace("exact_match,", "exact_match, looped, tokens,"), counts=(6, 4, 3)
    )
    assert load_evaluator(path).problems() == []
    directions = load_evaluator(path).directions()
    assert directions["pets.looped"] is False
    assert directions["pets.tokens"] is None
    scores = open_evaluator(load_evaluator(path)).evaluate(Subject(parrot, tokenizer), "search")
    assert scores.metrics["pets.looped"].value == 1.0
    assert scores.metrics["pets.tokens"].value == 90
    assert scores.items["pets.looped"].tolist() == [1.0] * 6


def test_they_are_no_metrics_of_other_tasks(bench: Bench) -> None:
    path = bench(declaration=DECLARATION.replace("acc_norm", "looped"))
    with pytest.raises(ConfigError, match=r"E124\].*no metric `looped`; it has: acc, acc_norm"):
        raise ConfigError(load_evaluator(path).problems())
