"""Differentiable losses against log-likelihoods of each request alone, and what the evaluators report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.errors import ConfigError
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.evaluators.losses import Differentiable, Question, question_losses
from evomerge.evaluators.packed import Request
from evomerge.evaluators.packing import alone
from tests.evaluators.conftest import DECLARATION, TASK, Bench, make_items
from tests.evaluators.test_generation import DECLARED, WRITE
from tests.evaluators.test_margins import LIKELIHOOD

LONGEST = 128
ROLLING = (
    TASK[: TASK.index("metric_list")]
    .replace("multiple_choice", "loglikelihood_rolling")
    .replace("doc_to_choice: choices\ndoc_to_target: answer", "doc_to_target: question")
    + "metric_list:\n  - {metric: word_perplexity, aggregation: weighted_perplexity}\n"
)


def losses_of(evaluator: Any, subject: Subject, items: Sequence[int]) -> dict[int, float]:
    """Item number to loss, each batch run backwards before the next is asked for."""
    assert isinstance(evaluator, Differentiable)
    parameters = list(subject.model.parameters())
    found: dict[int, float] = {}
    for numbers, batch in evaluator.losses(subject, "search", items):
        assert not set(numbers) & set(found)
        assert batch.dtype == torch.float64
        slopes = torch.autograd.grad(batch.sum(), parameters)
        assert all(bool(slope.isfinite().all()) for slope in slopes)
        found |= dict(zip(numbers, batch.tolist(), strict=True))
    assert sorted(found) == list(items)
    return found


def cross_entropy(values: Sequence[float], right: Sequence[int]) -> float:
    chances = np.exp(np.array(values) - max(values))
    return float(-np.log(chances[list(right)].sum() / chances.sum()))


def draw(rng: np.random.Generator, most: int) -> tuple[int, ...]:
    return tuple(rng.integers(3, 30, int(rng.integers(1, most + 1))).tolist())


@pytest.mark.parametrize("layout", ["tree", "rows"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_losses_are_those_of_each_request_alone(
    subject: Subject, layout: Any, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(batch_size)
    asked = []
    for number in range(7):
        context = draw(rng, 12)
        count = int(rng.integers(2, 6))
        requests = tuple(Request(context, draw(rng, 5)) for _ in range(count))
        right = (0, 1) if number == 3 else (int(rng.integers(count)),)
        asked.append(Question(requests, right))
    given = Subject(subject.model, subject.tokenizer, batch_size=batch_size)
    if batch_size == 64:
        # So few logits at a time that a batch is split.
        monkeypatch.setattr("evomerge.evaluators.packed.LOGITS", 40 * len(subject.tokenizer))
    for right in (True, False):
        questions = asked if right else [Question(each.requests) for each in asked]
        found = {}
        for places, batch in question_losses(given, questions, layout, LONGEST):
            torch.autograd.grad(batch.sum(), list(subject.model.parameters()))
            found |= dict(zip(places, batch.tolist(), strict=True))
        assert sorted(found) == list(range(7))
        for place, question in enumerate(asked):
            values = [alone(subject.model, request, LONGEST) for request in question.requests]
            tokens = sum(len(request.continuation) for request in question.requests)
            expected = cross_entropy(values, question.right) if right else -sum(values) / tokens
            assert found[place] == pytest.approx(expected, abs=1e-4)
    if batch_size != 4:
        return
    unlabelled = [Question(each.requests) for each in asked]
    found = {}
    for places, batch in question_losses(given, unlabelled, layout, LONGEST, entropy=True):
        torch.autograd.grad(batch.sum(), list(subject.model.parameters()))
        found |= dict(zip(places, batch.tolist(), strict=True))
    for place, question in enumerate(asked):
        values = np.array([alone(subject.model, request, LONGEST) for request in question.requests])
        chances = np.exp(values - values.max())
        chances /= chances.sum()
        assert found[place] == pytest.approx(float(-(chances * np.log(chances)).sum()), abs=1e-4)


@pytest.mark.parametrize("scorer", ["auto", "lm_eval"])
def test_choices_have_the_cross_entropy_of_what_is_evaluated(
    bench: Bench, subject: Subject, scorer: str
) -> None:
    path = bench()
    path.write_text(path.read_text() + f"scorer: {scorer}\n")
    evaluator: Any = open_evaluator(load_declaration(path))
    assert evaluator.has_losses("search")
    found = losses_of(evaluator, subject, [0, 3, 4, 10, 16])
    right = {item["question"]: item["answer"] for item in make_items(0, 17)}
    requests = evaluator._requests["search"]
    for number, loss in found.items():
        values = [alone(subject.model, request, LONGEST) for request in requests.tokens[number]]
        answer = right[requests.items[number][0].doc["question"]]
        assert loss == pytest.approx(cross_entropy(values, [answer]), abs=1e-4)
    scores = evaluator.evaluate(subject, "search").items["pets.acc"]
    # The right choice is the likeliest of four wherever its loss says so.
    assert all(scores[number] == 1.0 for number, loss in found.items() if loss < np.log(2))


@pytest.mark.parametrize("items", [[3, 1], [2, 2], [0, 17], [-1]])
def test_items_that_do_not_exist(bench: Bench, subject: Subject, items: list[int]) -> None:
    evaluator: Any = open_evaluator(load_declaration(bench()))
    with pytest.raises(ValueError, match=r"items must be ascending, each once, in 0\.\.16"):
        next(evaluator.losses(subject, "search", items))


def test_windows_of_a_text_have_what_they_are_scored_by(tmp_path: Path, subject: Subject) -> None:
    words = " ".join(f"cat {n} runs" for n in range(400))
    (tmp_path / "text.txt").write_text(words)
    path = tmp_path / "own.yaml"
    # Windows longer than the 128 tokens that the model reads at once.
    path.write_text("{schema: 1, name: own, kind: perplexity, text: text.txt, window: 900}")
    evaluator = open_evaluator(load_declaration(path))
    items = list(range(evaluator.item_count("search")))
    found = losses_of(evaluator, subject, items)
    scores = evaluator.evaluate(subject, "search").items
    expected = -scores["own.loglikelihood"] / scores["own.tokens"]
    assert max(scores["own.tokens"]) > LONGEST
    assert [found[item] for item in items] == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("task", "declaration"),
    [
        (WRITE, DECLARED),
        (WRITE, DECLARED + "smooth: false\n"),
        (LIKELIHOOD, DECLARATION.replace("acc_norm", "perplexity")),
        (ROLLING, DECLARATION.replace("acc, acc_norm", "word_perplexity")),
    ],
    ids=["written", "written, nothing smooth", "log-likelihood", "rolling"],
)
def test_texts_have_their_likelihood_per_token(
    bench: Bench, subject: Subject, task: str, declaration: str
) -> None:
    evaluator: Any = open_evaluator(load_declaration(bench(task, declaration, counts=(9, 4, 3))))
    assert evaluator.has_losses("search")
    found = losses_of(evaluator, subject, [1, 2, 5, 8])
    tokenizer: Any = subject.tokenizer
    for number, loss in found.items():
        item = evaluator._requests["search"].items[number][0].doc
        before = tokenizer(item["question"])["input_ids"]
        whole = tokenizer(item["question"] + item["choices"][item["answer"]])["input_ids"]
        if task is ROLLING:
            whole, before = [tokenizer.bos_token_id, *before], [tokenizer.bos_token_id]
        request = Request(tuple(before), tuple(whole[len(before) :]))
        expected = -alone(subject.model, request, LONGEST) / len(request.continuation)
        assert loss == pytest.approx(expected, abs=1e-5)


def one_right(seed: int, count: int) -> list[dict[str, Any]]:
    return [item | {"answer": 0 if n == 0 else 9} for n, item in enumerate(make_items(seed, count))]


@pytest.mark.parametrize(
    ("task", "declaration", "items", "words"),
    [
        (
            WRITE.replace("{{choices[answer]}}", " "),
            DECLARED,
            make_items,
            "an item has no reference answer",
        ),
        (TASK, DECLARATION, one_right, "no right choice among 4"),
    ],
    ids=["written", "choices"],
)
def test_items_without_a_right_answer_have_no_loss(
    bench: Bench, subject: Subject, task: str, declaration: str, items: Any, words: str
) -> None:
    evaluator: Any = open_evaluator(load_declaration(bench(task, declaration, items=items)))
    assert not evaluator.has_losses("search")
    with pytest.raises(ConfigError, match=rf"E148.*tasks\.search: there is no diff.* loss; {words}"):
        next(evaluator.losses(subject, "search", range(17)))


def test_entropies_ask_for_choices_and_look_at_no_label(
    bench: Bench, subject: Subject, tmp_path: Path
) -> None:
    evaluator: Any = open_evaluator(load_declaration(bench(items=one_right)))
    assert evaluator.has_choices("search")
    ((numbers, found),) = list(evaluator.losses(subject, "search", [1, 2], entropy=True))
    assert numbers == (1, 2)
    assert bool(((found > 0.0) & (found < np.log(4) + 1e-9)).all())
    (tmp_path / "text.txt").write_text(" ".join(f"cat {n} runs" for n in range(400)))
    (tmp_path / "own.yaml").write_text(
        "{schema: 1, name: own, kind: perplexity, text: text.txt, window: 900}"
    )
    texts: Any = open_evaluator(load_declaration(tmp_path / "own.yaml"))
    assert not texts.has_choices("search")
    with pytest.raises(ConfigError, match=r"E148.*texts have no choices, and no entropy over them"):
        next(texts.losses(subject, "search", [0], entropy=True))


def test_answers_that_are_written_have_no_entropy(bench: Bench, subject: Subject) -> None:
    evaluator: Any = open_evaluator(load_declaration(bench(WRITE, DECLARED)))
    assert not evaluator.has_choices("search")
    with pytest.raises(ConfigError, match=r"E148.*`generate_until` item.*no entropy over them"):
        next(evaluator.losses(subject, "search", [0], entropy=True))


def test_evaluators_without_a_loss_are_absent(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("{schema: 1, name: own, kind: size}")
    assert not isinstance(open_evaluator(load_declaration(path)), Differentiable)
