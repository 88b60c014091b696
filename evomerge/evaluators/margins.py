"""Smooth values of lm-eval's items: how surely a model is right or wrong, from the answers it gave anyway.

Per item and metric: of a choice `tanh(m / 2)`, where the margin m is the log-likelihood of the right choice
minus that of the best wrong one (normalised where the metric normalises them); of a text its log-likelihood
(nats); of a generated answer the log-likelihood per token of the reference answer, teacher-forced, of several
the likeliest. All run in the direction of their metric: of one that falls as right answers get likelier the
sign is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Answers = Sequence[tuple[float, bool]]
"""What a model said of the requests of an item: summed log-likelihood, and whether it is the greedy text."""


def smooth_values(
    task: Any, doc: Any, answers: Answers, lengths: Sequence[int], signs: Mapping[str, float]
) -> dict[str, float]:
    """The smooth values of one item by metric.

    Args:
        task: lm-eval's.
        doc: the item.
        answers: to its requests; of a task that writes, to those for its reference answers.
        lengths: tokens that each of them scores.
        signs: by metric, as `questions.smooth_signs` gives them.
    """
    if task.OUTPUT_TYPE == "multiple_choice":
        found = _Choice(task, doc, answers)
        return {metric: sign * found.value(metric) for metric, sign in signs.items()}
    if task.OUTPUT_TYPE == "generate_until":
        per_token = [reply[0] / count for reply, count in zip(answers, lengths, strict=True)]
        return {metric: sign * float(np.max(per_token)) for metric, sign in signs.items()}
    return {metric: sign * _likelihood(answers[0]) for metric, sign in signs.items()}


def _likelihood(reply: Any) -> float:
    """Of a rolling request lm-eval gives the number alone."""
    return float(reply[0] if isinstance(reply, tuple) else reply)


class _Choice:
    """An item with choices, its log-likelihoods as lm-eval's `process_results` reads them."""

    def __init__(self, task: Any, doc: Any, answers: Answers) -> None:
        self.choices: list[str] = task.doc_to_choice(doc)
        numbers = np.array([likelihood for likelihood, _ in answers], dtype=np.float64)
        self.given, self.alone = numbers[: len(self.choices)], numbers[len(self.choices) :]
        self.right = right_choices(task, doc, self.choices)

    def value(self, metric: str) -> float:
        """Its smooth value in the direction of more being right."""
        if metric == "exact_match":
            return max((float(self.given[n]) for n in self.right), default=-math.inf)
        scale = _SCALES.get(metric)
        with np.errstate(all="ignore"):
            scaled = self.given if scale is None else scale(self)
        wrong = [n for n in range(len(self.choices)) if n not in self.right]
        best = [
            max((float(scaled[n]) for n in some), default=-math.inf) for some in (self.right, wrong)
        ]
        return math.tanh((best[0] - best[1]) / 2)


_SCALES: Mapping[str, Callable[[_Choice], np.ndarray]] = {
    "acc_norm": lambda item: item.given / np.array([float(len(c)) for c in item.choices]),
    "acc_bytes": lambda item: item.given / np.array([float(len(c.encode())) for c in item.choices]),
    "acc_mutual_info": lambda item: item.given - item.alone,
}
"""What lm-eval takes the largest of instead of the plain log-likelihoods."""


def right_choices(task: Any, doc: Any, choices: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the right choices of an item, ascending, as lm-eval's `process_results` takes them."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    listed = gold if isinstance(gold, list) else [gold]
    numbers = (choices.index(g) if isinstance(g, str) and g in choices else g for g in listed)
    return tuple(sorted({n for n in numbers if isinstance(n, int) and 0 <= n < len(choices)}))


def reference_answers(task: Any, doc: Any) -> list[str]:
    """What a written answer to an item is compared with, as lm-eval's `process_results` takes it."""
    gold = task.doc_to_target(doc)
    if task.config.doc_to_choice is not None:
        gold = task.doc_to_choice(doc)[gold]
    listed = list(gold) if isinstance(gold, list | tuple) else [gold]
    return [text for text in map(str, listed) if text.strip()]
