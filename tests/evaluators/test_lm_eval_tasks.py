"""Our evaluator against stock `simple_evaluate`, on the same live model."""

import json
import logging
import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, patch

import numpy as np
import pytest
import torch
from lm_eval import evaluator as stock_evaluator
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluators.evaluator import BlockEvaluator, Subject
from evomerge.evaluators.items import item_id
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from tests.evaluators.conftest import (
    DECLARATION,
    TASK,
    Bench,
    build_llama,
    build_tokenizer,
    make_items,
)


def stock(
    path: Path, subject: Subject, task: str, *, surroundings: bool = False, **arguments: Any
) -> dict[str, Any]:
    """What stock lm-eval says of one task, run from the task folder; of the machine only where asked to."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    here = Path.cwd()
    os.chdir(path.parent / "tasks")
    try:
        lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=subject.batch_size)
        manager = TaskManager(include_path=".", include_defaults=False)
        # It asks a dozen programs, git and pip among them, for what surrounds it: a second each time.
        left_out = patch.multiple(stock_evaluator, add_env_info=DEFAULT, get_git_commit_hash=DEFAULT)
        with nullcontext() if surroundings else left_out:
            found: dict[str, Any] = simple_evaluate(
                model=lm, tasks=[task], task_manager=manager, log_samples=True, **arguments
            )
    finally:
        os.chdir(here)
    return found


def test_scores_are_those_of_stock_lm_eval(bench: Bench, subject: Subject) -> None:
    path = bench()
    expected = stock(path, subject, "pets_search")["results"]["pets_search"]
    for scorer in ("lm_eval", "packed"):
        path.write_text(DECLARATION + f"scorer: {scorer}\n")
        scores = open_evaluator(load_evaluator(path)).evaluate(subject, "search")
        for metric in ("acc", "acc_norm"):
            ours = scores.metrics[f"pets.{metric}"]
            assert ours.value == expected[f"{metric},none"]
            assert ours.stderr == pytest.approx(expected[f"{metric}_stderr,none"], abs=1e-12)
            assert ours.items == 17


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("scorer", ["lm_eval", "packed"])
def test_log_likelihoods_and_items_are_those_of_stock_lm_eval(
    bench: Bench, scorer: str, bos: bool
) -> None:
    path = bench(declaration=DECLARATION + f"scorer: {scorer}\n")
    tokenizer = build_tokenizer(bos=bos)
    subject = Subject(build_llama(len(tokenizer), seed=1), tokenizer, batch_size=5)
    evaluator = open_evaluator(load_evaluator(path))
    kept: list[tuple[str, tuple[float, ...]]] = []
    split = evaluator._split("search")  # type: ignore[attr-defined]
    process = split.task.process_results

    def spy(doc: dict[str, Any], results: list[tuple[float, bool]]) -> Any:
        kept.append((item_id(doc), tuple(value for value, _ in results)))
        return process(doc, results)

    split.task.process_results = spy
    scores = evaluator.evaluate(subject, "search")
    samples = stock(path, subject, "pets_search")["samples"]["pets_search"]
    expected = {
        item_id(sample["doc"]): [reply[0] for reply in sample["filtered_resps"]] for sample in samples
    }
    assert tuple(key for key, _ in kept) == evaluator.item_ids("search")
    for key, values in kept:
        assert values == pytest.approx(expected[key], abs=1e-4)
    right = {item_id(sample["doc"]): sample["acc"] for sample in samples}
    assert scores.items["pets.acc"].dtype == np.float64
    assert scores.items["pets.acc"].tolist() == [right[key] for key in evaluator.item_ids("search")]


def test_an_encoder_decoder_answers_what_it_has_read(bench: Bench) -> None:
    """The likelihood is that of the decoder's tokens after the encoder read the question."""
    tokenizer = build_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    subject = Subject(model, tokenizer, batch_size=4)
    path = bench()
    scores = open_evaluator(load_evaluator(path)).evaluate(subject, "search")
    found = stock(path, subject, "pets_search")
    expected = found["results"]["pets_search"]
    assert scores.metrics["pets.acc"].value == expected["acc,none"]
    assert len({each["acc"] for each in found["samples"]["pets_search"]}) == 2
    for sample in found["samples"]["pets_search"][:5]:
        for request, reply in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            read, said = (tokenizer(each)["input_ids"] for each in request[:2])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([read]), labels=torch.tensor([said])).logits[0]
            chances = logits.log_softmax(-1)[range(len(said)), said]
            assert float(reply[0]) == pytest.approx(float(chances.sum()), abs=1e-4)


def test_a_model_that_fills_masks_has_no_likelihood(bench: Bench) -> None:
    tokenizer = build_tokenizer()
    size = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **size)).eval()
    evaluator = open_evaluator(load_evaluator(bench()))
    with pytest.raises(
        ConfigError, match=r"E154.*`lm_eval` needs a model that writes.*BertForMaskedLM"
    ):
        evaluator.evaluate(Subject(model, tokenizer, batch_size=4), "search")


def test_few_shot_prompts_and_templates_are_those_of_stock_lm_eval(
    bench: Bench, subject: Subject
) -> None:
    task = TASK.replace("doc_to_text: question", 'doc_to_text: "{{question}} the answer is"')
    task = task.replace('target_delimiter: ""', "fewshot_config: {sampler: first_n, split: test}")
    path = bench(task, DECLARATION + "num_fewshot: 2\n")
    scores = open_evaluator(load_evaluator(path)).evaluate(subject, "search")
    expected = stock(path, subject, "pets_search", num_fewshot=2)["results"]["pets_search"]
    assert scores.metrics["pets.acc"].value == expected["acc,none"]
    assert scores.metrics["pets.acc_norm"].value == expected["acc_norm,none"]


def test_blocks_are_independent_and_tile_the_split(bench: Bench, subject: Subject) -> None:
    evaluator = open_evaluator(load_evaluator(bench()))
    whole = evaluator.evaluate(subject, "search")
    parts = [evaluator.evaluate(subject, "search", [block]) for block in range(3)]
    joined = np.concatenate([part.items["pets.acc"] for part in parts])
    assert np.array_equal(joined, whole.items["pets.acc"])
    assert [len(part.items["pets.acc"]) for part in parts] == [7, 7, 3]
    two = evaluator.evaluate(subject, "search", [0, 2])
    assert two.metrics["pets.acc"].items == 10


def test_a_pause_between_blocks_changes_nothing(bench: Bench, subject: Subject) -> None:
    evaluator = open_evaluator(load_evaluator(bench()))
    assert isinstance(evaluator, BlockEvaluator)
    whole = evaluator.evaluate(subject, "search")
    scoring, counts = evaluator.by_block(subject, "search"), []
    while True:
        try:
            part = next(scoring)
        except StopIteration as end:
            scores = end.value
            break
        counts.append(len(part["pets.acc"]))
        for metric, values in part.items():
            expected = whole.arrays()[metric][: len(values)]
            assert values.astype(np.float32).tolist() == expected.astype(np.float32).tolist()
    size, items = evaluator.block_size, evaluator.item_count("search")
    assert counts == list(range(size, items, size))  # and nothing after the last block
    assert scores.metrics == whole.metrics


@pytest.mark.parametrize("blocks", [[3], [1, 0], [0, 0], [-1], []])
def test_blocks_that_do_not_exist_are_refused(
    bench: Bench, subject: Subject, blocks: list[int]
) -> None:
    evaluator = open_evaluator(load_evaluator(bench()))
    with pytest.raises(ValueError, match=r"blocks must be ascending, each once, in 0\.\.2"):
        evaluator.evaluate(subject, "search", blocks)


def test_items_are_in_content_order_whatever_the_file_says(bench: Bench) -> None:
    path = bench()
    first = open_evaluator(load_evaluator(path)).item_ids("search")
    data = path.parent / "tasks/data/pets_search.jsonl"
    data.write_text("\n".join(reversed(data.read_text().splitlines())))
    assert open_evaluator(load_evaluator(path)).item_ids("search") == first == tuple(sorted(first))


def test_requests_are_built_once_and_follow_the_weights(
    bench: Bench, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = open_evaluator(load_evaluator(bench()))
    split = evaluator._split("search")  # type: ignore[attr-defined]
    built = 0
    build = split.task.build_all_requests

    def counted(**arguments: Any) -> None:
        nonlocal built
        built += 1
        build(**arguments)

    monkeypatch.setattr(split.task, "build_all_requests", counted)
    live = build_llama(len(tokenizer), seed=2)
    subject = Subject(live, tokenizer, batch_size=4)
    first = evaluator.evaluate(subject, "search")
    before = {name: value.clone() for name, value in live.state_dict().items()}
    live.load_state_dict(build_llama(len(tokenizer), seed=3).state_dict())
    second = evaluator.evaluate(subject, "search")
    live.load_state_dict(before)
    third = evaluator.evaluate(subject, "search")
    assert built == 1
    assert not np.array_equal(first.items["pets.acc"], second.items["pets.acc"])
    assert np.array_equal(first.items["pets.acc"], third.items["pets.acc"])


def test_a_metric_that_is_no_mean_has_an_error_and_no_items(bench: Bench, subject: Subject) -> None:
    task = TASK + "  - {metric: f1, aggregation: f1, higher_is_better: true}\n"

    def two_choices(seed: int, count: int) -> list[dict[str, Any]]:
        items = make_items(seed, count)
        return [{**i, "choices": i["choices"][:2], "answer": i["answer"] % 2} for i in items]

    path = bench(task, DECLARATION.replace("acc_norm", "f1"), items=two_choices)
    scores = open_evaluator(load_evaluator(path)).evaluate(subject, "search")
    expected = stock(path, subject, "pets_search", bootstrap_iters=0)["results"]["pets_search"]
    assert scores.metrics["pets.f1"].value == expected["f1,none"]
    assert 0 < scores.metrics["pets.f1"].stderr < 0.5
    assert set(scores.items) == {"pets.acc"}


def test_generated_answers_go_through_lm_eval(bench: Bench, subject: Subject) -> None:
    task = TASK.replace("multiple_choice", "generate_until").replace(
        "doc_to_choice: choices\ndoc_to_target: answer", 'doc_to_target: "{{choices[answer]}}"'
    )
    task = task[: task.index("metric_list")] + (
        "generation_kwargs: {until: ['.'], max_gen_toks: 4, do_sample: false}\n"
        "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
    )
    path = bench(task, DECLARATION.replace("acc, acc_norm", "exact_match"), counts=(5, 4, 3))
    evaluator = open_evaluator(load_evaluator(path))
    scores = evaluator.evaluate(subject, "search")
    expected = stock(path, subject, "pets_search")["results"]["pets_search"]
    assert scores.metrics["pets.exact_match"].value == expected["exact_match,none"]


def test_a_model_with_nan_weights_fails_as_a_candidate(bench: Bench, tokenizer: Any) -> None:
    broken = build_llama(len(tokenizer))
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[3, 3] = math.nan
    evaluator = open_evaluator(load_evaluator(bench()))
    with pytest.raises(CandidateError, match="logits are not finite") as caught:
        evaluator.evaluate(Subject(broken, tokenizer), "search")
    assert caught.value.kind == "nonfinite_logits"


@pytest.mark.parametrize("scorer", ["lm_eval", "packed"])
def test_nan_that_the_canary_does_not_meet_is_no_score(
    bench: Bench, tokenizer: Any, scorer: str
) -> None:
    def numbered(seed: int, count: int) -> list[dict[str, Any]]:
        items = make_items(seed, count)
        return [{**item, "question": f"Q: {i} ? A:"} for i, item in enumerate(items)]

    path = bench(declaration=DECLARATION + f"scorer: {scorer}\n", counts=(10, 0, 0), items=numbered)
    for seed, split in enumerate(("selection", "test")):
        data = path.parent / f"tasks/data/pets_{split}.jsonl"
        data.write_text(json.dumps(make_items(seed, 1)[0]))
    evaluator = open_evaluator(load_evaluator(path))
    last = evaluator.item_ids("search")[-1]
    number = next(i for i, doc in enumerate(numbered(0, 10)) if item_id(doc) == last)
    hidden = build_llama(len(tokenizer))
    with torch.no_grad():
        hidden.model.embed_tokens.weight[tokenizer.get_vocab()[str(number)]] = math.inf
    with pytest.raises(CandidateError, match="log-likelihood is not a number"):
        evaluator.evaluate(Subject(hidden, tokenizer), "search")


def test_splits_that_share_items_are_found_where_data_is_no_json_lines(bench: Bench) -> None:
    task = TASK.replace("dataset_path: json", "dataset_path: csv").replace(".jsonl", ".csv")
    task = task.replace("doc_to_choice: choices", "doc_to_choice: ['a', 'b']")
    path = bench(task)
    for name in ("search", "selection", "test"):
        rows = [f"{name} {row},{row % 2}" for row in range(4)] + ["the same,1"] * (name != "test")
        data = path.parent / f"tasks/data/pets_{name}.csv"
        data.write_text("question,answer\n" + "\n".join(rows) + "\n")
    with pytest.raises(ConfigError, match=r"error\[E128\].*search and selection share items; 1 items"):
        open_evaluator(load_evaluator(path))


def test_a_task_lm_eval_cannot_load_is_a_config_error(bench: Bench, subject: Subject) -> None:
    path = bench(TASK.replace("doc_to_text: question", 'doc_to_text: "{{nothing_here}}"'))
    with pytest.raises(ConfigError, match=r"error\[E123\].*cannot load task pets_search.*nothing_here"):
        open_evaluator(load_evaluator(path)).evaluate(subject, "search")
