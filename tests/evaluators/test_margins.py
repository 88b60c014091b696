"""Smooth values against stock lm-eval's own log-likelihoods; the same in blocks, raced or whole."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.items import item_id
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.objectives.scores import Scores
from tests.evaluators.conftest import DECLARATION, TASK, Bench, make_items
from tests.evaluators.test_generation import DECLARED
from tests.evaluators.test_generation import WRITE as LONG
from tests.evaluators.test_lm_eval_tasks import stock

WRITE = LONG.replace("max_gen_toks: 90", "max_gen_toks: 4")
LIKELIHOOD = TASK[: TASK.index("metric_list")].replace("multiple_choice", "loglikelihood").replace(
    "doc_to_choice: choices\ndoc_to_target: answer", 'doc_to_target: "{{choices[answer]}}"'
) + (
    "metric_list:\n"
    "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    "  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
)


def smooth_of(path: Path, subject: Subject) -> tuple[Scores, tuple[str, ...]]:
    evaluator = open_evaluator(load_evaluator(path))
    return evaluator.evaluate(subject, "search"), evaluator.item_ids("search")


def replies(path: Path, subject: Subject) -> dict[str, tuple[dict[str, Any], list[Any]]]:
    """Item to its document and stock lm-eval's replies."""
    samples = stock(path, subject, "pets_search", bootstrap_iters=0)["samples"]["pets_search"]
    return {item_id(s["doc"]): (s["doc"], s["filtered_resps"]) for s in samples}


def agrees(scores: Scores, metric: str, expected: list[float]) -> None:
    assert scores.smooth[metric].dtype == np.float64
    assert scores.smooth[metric] == pytest.approx(expected, abs=1e-4)
    assert scores.metrics[metric].smooth == float(np.mean(scores.smooth[metric]))


def test_margins_are_those_of_stock_log_likelihoods(bench: Bench, subject: Subject) -> None:
    path = bench()
    found = replies(path, subject)
    for scorer in ("lm_eval", "packed"):
        path.write_text(DECLARATION + f"scorer: {scorer}\n")
        scores, ids = smooth_of(path, subject)
        for metric, length in (("pets.acc", lambda choice: 1), ("pets.acc_norm", len)):
            expected = []
            for doc, answers in (found[name] for name in ids):
                own = [reply[0] / length(c) for reply, c in zip(answers, doc["choices"], strict=True)]
                right = own.pop(doc["answer"])
                expected.append(math.tanh((right - max(own)) / 2))
            agrees(scores, metric, expected)
            # A margin is above 0 where the item is right, and nowhere else.
            assert ((scores.smooth[metric] > 0) == (scores.items[metric] > 0.5)).all()
        assert len(set(scores.smooth["pets.acc"].tolist())) > 10


def test_choices_with_several_right_ones_and_metrics_that_fall(bench: Bench, subject: Subject) -> None:
    task = TASK.replace("doc_to_target: answer", "doc_to_target: rights").replace(
        "acc_norm, aggregation: mean", "exact_match, aggregation: mean"
    )

    def items(seed: int, count: int) -> list[dict[str, Any]]:
        made = make_items(seed, count)
        return [item | {"rights": sorted({item["answer"], 2})} for item in made]

    path = bench(task, DECLARATION.replace("acc_norm", "exact_match"), items=items)
    scores, ids = smooth_of(path, subject)
    found = replies(path, subject)
    margins, likelihoods = [], []
    for doc, answers in (found[name] for name in ids):
        right = max(answers[n][0] for n in doc["rights"])
        wrong = [answers[n][0] for n in range(4) if n not in doc["rights"]]
        margins.append(math.tanh((right - max(wrong)) / 2))
        likelihoods.append(right)
    agrees(scores, "pets.acc", margins)
    agrees(scores, "pets.exact_match", likelihoods)


def test_a_loss_runs_in_its_own_direction(bench: Bench, subject: Subject) -> None:
    task = TASK.replace(
        "acc_norm, aggregation: mean, higher_is_better: true",
        "brier_score, aggregation: brier_score, higher_is_better: false",
    )
    path = bench(task, DECLARATION.replace("acc_norm", "brier_score"))
    scores, _ = smooth_of(path, subject)
    assert scores.smooth["pets.brier_score"].tolist() == (-scores.smooth["pets.acc"]).tolist()
    assert "pets.brier_score" not in scores.items


def test_an_accuracy_that_shall_be_low_rises_with_right_answers_all_the_same(
    bench: Bench, subject: Subject
) -> None:
    path = bench()
    usual, _ = smooth_of(path, subject)
    for file in (path.parent / "tasks").glob("*.yaml"):
        file.write_text(file.read_text().replace("better: true", "better: false"))
    scores, _ = smooth_of(path, subject)
    assert scores.smooth["pets.acc"].tolist() == usual.smooth["pets.acc"].tolist()


def test_a_text_has_its_log_likelihood(bench: Bench, subject: Subject) -> None:
    declared = DECLARATION.replace("acc_norm", "perplexity")
    path = bench(LIKELIHOOD, declared)
    found = replies(path, subject)
    for scorer in ("lm_eval", "packed"):
        path.write_text(declared + f"scorer: {scorer}\n")
        scores, ids = smooth_of(path, subject)
        expected = [found[name][1][0][0] for name in ids]
        agrees(scores, "pets.acc", expected)
        agrees(scores, "pets.perplexity", [-each for each in expected])
        # lm-eval's perplexity is the exponential of just that mean.
        perplexity = scores.metrics["pets.perplexity"]
        assert math.exp(perplexity.smooth or 0.0) == pytest.approx(perplexity.value, rel=1e-5)


@pytest.mark.parametrize("scorer", ["lm_eval", "auto"])
def test_a_written_answer_has_its_references_likelihood_per_token(
    bench: Bench, subject: Subject, scorer: str
) -> None:
    path = bench(WRITE, DECLARED + f"scorer: {scorer}\n", counts=(9, 4, 3))
    scores, ids = smooth_of(path, subject)
    lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=1)
    docs = {item_id(doc): doc for doc in make_items(0, 9)}
    expected = []
    for doc in (docs[name] for name in ids):
        read = lm.tok_encode(doc["question"])
        scored = lm.tok_encode(doc["choices"][doc["answer"]])
        with torch.no_grad():
            logits = subject.model(torch.tensor([read + scored])).logits[0].log_softmax(-1)
        own = [float(logits[len(read) - 1 + n, token]) for n, token in enumerate(scored)]
        expected.append(sum(own) / len(own))
    for metric in ("exact_match", "chrf", "bleu"):
        agrees(scores, f"pets.{metric}", expected)
    assert scores.metrics["pets.tokens"].smooth is None


def test_of_several_references_the_likeliest_counts(bench: Bench, subject: Subject) -> None:
    several = WRITE.replace('"{{choices[answer]}}"', "choices")
    path = bench(several, DECLARED.replace("exact_match, chrf, bleu", "exact_match"), counts=(5, 4, 3))
    best, _ = smooth_of(path, subject)
    single = []
    for number in range(4):
        for file in (path.parent / "tasks").glob("*.yaml"):
            text = file.read_text()
            target = next(line for line in text.splitlines() if line.startswith("doc_to_target"))
            file.write_text(text.replace(target, f'doc_to_target: "{{{{choices[{number}]}}}}"'))
        single.append(smooth_of(path, subject)[0].smooth["pets.exact_match"])
    assert best.smooth["pets.exact_match"] == pytest.approx(np.max(single, axis=0), abs=1e-5)


@pytest.mark.parametrize(("task", "declaration"), [(TASK, DECLARATION), (WRITE, DECLARED)])
def test_blocks_give_the_bits_of_the_whole(
    bench: Bench, subject: Subject, task: str, declaration: str
) -> None:
    evaluator = open_evaluator(load_evaluator(bench(task, declaration)))
    whole = evaluator.evaluate(subject, "search")
    parts = [evaluator.evaluate(subject, "search", [block]) for block in range(3)]
    for metric, values in whole.smooth.items():
        assert np.concatenate([part.smooth[metric] for part in parts]).tolist() == values.tolist()
    assert whole.smooth.keys() == set(evaluator.metrics)


def test_they_are_switched_off_in_the_evaluators_file(bench: Bench, subject: Subject) -> None:
    path = bench(WRITE, DECLARED, counts=(5, 4, 3))
    before = load_evaluator(path)
    with_them, _ = smooth_of(path, subject)
    path.write_text(DECLARED + "smooth: false\n")
    without, _ = smooth_of(path, subject)
    assert without.smooth == {}
    assert without.items.keys() == with_them.items.keys()
    assert all(metric.smooth is None for metric in without.metrics.values())
    assert {n: m.value for n, m in without.metrics.items()} == {
        n: m.value for n, m in with_them.metrics.items()
    }
    assert load_evaluator(path).digest() != before.digest()
