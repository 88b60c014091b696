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
from evomerge.evaluators.task_files import find_installed
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
    assert evaluator.loss_directions("search")
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
    assert evaluator.loss_directions("search")
    are_likelihoods_per_token(evaluator, subject, whole=task is ROLLING)


def are_likelihoods_per_token(evaluator: Any, subject: Subject, *, whole: bool = False) -> None:
    """Losses of right choices behind their questions, or of `whole` questions."""
    found = losses_of(evaluator, subject, [1, 2, 5, 8])
    tokenizer: Any = subject.tokenizer
    for number, loss in found.items():
        item = evaluator._requests["search"].items[number][0].doc
        before = tokenizer(item["question"])["input_ids"]
        text = tokenizer(item["question"] + item["choices"][item["answer"]])["input_ids"]
        if whole:
            text, before = [tokenizer.bos_token_id, *before], [tokenizer.bos_token_id]
        request = Request(tuple(before), tuple(text[len(before) :]))
        expected = -alone(subject.model, request, LONGEST) / len(request.continuation)
        assert loss == pytest.approx(expected, abs=1e-5)


JUDGE = """\
def passes(doc, results):
    return {"passes": float(len(results[0]) % 2)}


def judged(references, predictions, **_):
    return float(len(predictions[0]) % 2)
"""
LISTED = WRITE[: WRITE.index("metric_list")]
"""A task that writes, without its metrics."""
PASSES = LISTED + (
    "process_results: !function judge.passes\n"
    "metric_list:\n  - {metric: passes, aggregation: mean, higher_is_better: true}\n"
)
FUNCTION = LISTED + (
    "metric_list:\n  - {metric: !function judge.judged, aggregation: mean, higher_is_better: true}\n"
)
BY_CODE = {
    "process_results": (PASSES, DECLARED.replace("exact_match, chrf, bleu", "passes, tokens")),
    "a function": (FUNCTION, DECLARED.replace("exact_match, chrf, bleu", "judged, looped")),
}


def judged_by_code(bench: Bench, task: str, declaration: str) -> Any:
    path = bench(task, declaration, counts=(9, 4, 3))
    (path.parent / "tasks" / "judge.py").write_text(JUDGE)
    return open_evaluator(load_declaration(path), allow_code=True)


@pytest.mark.parametrize("judge", BY_CODE)
@pytest.mark.parametrize("target", ["assert", "{{choices[answer]}}"])
def test_written_answers_that_code_judges_have_no_loss(
    bench: Bench, subject: Subject, judge: str, target: str
) -> None:
    """As HumanEval's, whose target is the tests; that it may be an answer does not show."""
    task, declaration = BY_CODE[judge]
    task = task.replace("{{choices[answer]}}", target)
    evaluator = judged_by_code(bench, task, declaration)
    assert evaluator.loss_directions("search") == {}
    assert not evaluator.declaration.learnable()
    words = r"E148.*Python of the task's own judges what is written.*`learn_targets: true` says that"
    with pytest.raises(ConfigError, match=words):
        next(evaluator.losses(subject, "search", [0]))


@pytest.mark.parametrize("judge", BY_CODE)
def test_a_declaration_may_say_that_targets_are_right_answers(
    bench: Bench, subject: Subject, judge: str
) -> None:
    task, declaration = BY_CODE[judge]
    evaluator = judged_by_code(bench, task, declaration + "learn_targets: true\n")
    (metric, _) = evaluator.metrics
    assert evaluator.loss_directions("search") == {metric: True}, "not of how long answers are"
    assert evaluator.declaration.learnable() == {metric}
    are_likelihoods_per_token(evaluator, subject)
    smooth = evaluator.evaluate(subject, "search").smooth[metric]
    for number, loss in losses_of(evaluator, subject, [1, 2, 5, 8]).items():
        assert smooth[number] == pytest.approx(-loss, abs=1e-5)


@pytest.mark.parametrize("judge", BY_CODE)
def test_what_code_judges_has_no_smooth_value_unless_targets_are_answers(
    bench: Bench, subject: Subject, judge: str
) -> None:
    assert judged_by_code(bench, *BY_CODE[judge]).evaluate(subject, "search").smooth == {}


def test_a_declaration_may_say_that_no_target_is_to_be_learned(bench: Bench, subject: Subject) -> None:
    path = bench(WRITE, DECLARED)
    before = load_declaration(path)
    path.write_text(DECLARED + "learn_targets: false\n")
    evaluator: Any = open_evaluator(load_declaration(path))
    assert evaluator.loss_directions("search") == {}
    assert not evaluator.declaration.learnable()
    assert evaluator.declaration.digest() == before.digest(), "no score is another"
    with pytest.raises(ConfigError, match=r"E148.*`learn_targets: false` keeps written answers"):
        next(evaluator.losses(subject, "search", [0]))


def test_targets_to_be_learned_are_of_tasks_that_write(bench: Bench) -> None:
    path = bench(TASK, DECLARATION + "learn_targets: true\n")
    with pytest.raises(ConfigError, match=r"E142.*learn_targets: `learn_targets` is for answers that"):
        open_evaluator(load_declaration(path))
    path.write_text(DECLARATION + "learn_targets: code\n")
    with pytest.raises(ConfigError, match=r"E108.*learn_targets"):
        load_declaration(path)


CHOSEN = TASK.replace(
    "metric: acc_norm, aggregation: mean", "metric: brier_score, aggregation: brier_score"
)
WAYS = {
    "choices": (CHOSEN, "acc, brier_score", {"acc": True, "brier_score": False}),
    "few right ones wanted": (
        TASK.replace("metric: acc, aggregation: mean, higher_is_better: true",
                     "metric: acc, aggregation: mean, higher_is_better: false"),
        "acc, acc_norm", {"acc": True, "acc_norm": True},
    ),
    "written": (WRITE, "exact_match, bleu, tokens, looped", {"exact_match": True, "bleu": True}),
    "written, beside a function": (
        WRITE + "  - {metric: !function judge.judged, aggregation: mean, higher_is_better: true}\n",
        "judged, bleu", {"bleu": True},
    ),
    "log-likelihood": (LIKELIHOOD, "acc, perplexity", {"acc": True, "perplexity": False}),
    "rolling": (ROLLING, "word_perplexity", {"word_perplexity": False}),
}  # fmt: skip


@pytest.mark.parametrize("kind", WAYS)
def test_losses_stand_for_metrics_that_tell_how_likely_right_answers_are(
    bench: Bench, kind: str
) -> None:
    task, metrics, ways = WAYS[kind]
    evaluator = judged_by_code(bench, task, DECLARATION.replace("acc, acc_norm", metrics))
    expected = {f"pets.{metric}": up for metric, up in ways.items()}
    assert evaluator.loss_directions("search") == expected
    assert evaluator.declaration.learnable() == set(expected)


def test_filters_are_no_part_of_what_a_metric_is(bench: Bench) -> None:
    task = WRITE + (
        "filter_list:\n  - {name: first, filter: [{function: take_first}]}\n"
        "  - {name: again, filter: [{function: take_first}]}\n"
    )
    declared = DECLARED.replace("exact_match, chrf, bleu", '"exact_match,again", "bleu,first", tokens')
    evaluator: Any = open_evaluator(load_declaration(bench(task, declared)))
    assert evaluator.loss_directions("search") == {
        "pets.exact_match,again": True,
        "pets.bleu,first": True,
    }


def test_tokens_of_a_text_are_no_quality(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(" ".join(f"cat {n} runs" for n in range(400)))
    path = tmp_path / "own.yaml"
    path.write_text("{schema: 1, name: own, kind: perplexity, text: text.txt}")
    evaluator: Any = open_evaluator(load_declaration(path))
    expected = {"own.perplexity": False, "own.loglikelihood": True}
    assert evaluator.loss_directions("search") == expected
    assert evaluator.declaration.learnable() == set(expected)


@pytest.mark.parametrize(
    ("name", "metric", "learnable"),
    [
        ("humaneval", "pass@1", False),
        ("mbpp", "pass_at_1", False),
        ("ifeval", "prompt_level_strict_acc", False),
        ("minerva_math_algebra", "exact_match", False),
        ("drop", "em", False),
        ("gsm8k", "exact_match", True),
        ("gsm8k", "tokens", False),
        ("triviaqa", "exact_match", True),
        ("arc_easy", "acc_norm", True),
        ("lambada_openai", "perplexity", True),
        ("wikitext", "word_perplexity", True),
    ],
)
def test_tasks_of_lm_eval(name: str, metric: str, learnable: bool) -> None:
    """As their files tell: their items are not on this machine."""
    assert find_installed([name])[0][name].may_learn(metric, None) == learnable


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
    assert not evaluator.loss_directions("search")
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
