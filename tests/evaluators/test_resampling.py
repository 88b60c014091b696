"""The error of a metric over texts, from counts made once, is that of scoring every resample anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lm_eval.api.registry import get_aggregation

from evomerge.evaluators import resampling
from evomerge.evaluators.resampling import RESAMPLES, resampled_error
from tests.evaluators.conftest import sentence

OVER_TEXTS = ("bleu", "chrf", "chrf++", "ter")


def texts(count: int, references: Callable[[int], int | None]) -> list[tuple[Any, str]]:
    """Results as lm-eval's tasks give them: what is right (one text, or several), and what was said."""
    rng = random.Random(3)
    found: list[tuple[Any, str]] = []
    for number in range(count):
        said, several = sentence(rng, 1, 9), references(number)
        right = [f"{said.split()[0]} {sentence(rng, 1, 9)}" for _ in range(several or 1)]
        found.append((right if several else right[0], said))
    return found


def anew(aggregate: Callable[[list[Any]], float], results: list[Any]) -> float:
    draws = np.random.default_rng(0).integers(len(results), size=(RESAMPLES, len(results)))
    return float(np.std([aggregate([results[i] for i in draw]) for draw in draws], ddof=1))


@pytest.mark.parametrize("several", [None, 2])
@pytest.mark.parametrize("name", OVER_TEXTS)
def test_to_the_last_bit(name: str, several: int | None) -> None:
    aggregate = get_aggregation(name)
    results = texts(7, lambda _: several)
    assert resampling._by_text(aggregate, results) is not None
    found = resampled_error(aggregate, results)
    assert found > 0
    assert found == anew(aggregate, results)


@pytest.mark.parametrize("name", ["bleu", "median", "f1"])
def test_others_are_scored_anew(name: str) -> None:
    """Where items have unlike numbers of references, a resample may have fewer for all."""
    aggregate = get_aggregation(name)
    results: list[Any] = texts(6, lambda number: 1 + number % 2)
    if name != "bleu":
        results = (
            [float(n % 3) for n in range(9)]
            if name == "median"
            else [(n % 2, n % 3 > 0) for n in range(12)]
        )
    assert resampling._by_text(aggregate, results) is None
    assert resampled_error(aggregate, results) == anew(aggregate, results)


def test_resamples_without_a_value_count_for_nothing() -> None:
    """As a correlation has none where all items drawn are of one class: the metric itself is sound."""
    results = [(float(number < 2), float(number % 7)) for number in range(20)]

    def correlation(chosen: list[Any]) -> float:
        x, y = np.array(chosen).T
        return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")

    draws = np.random.default_rng(0).integers(len(results), size=(RESAMPLES, len(results)))
    values = [correlation([results[number] for number in draw]) for draw in draws]
    known = [value for value in values if value == value]
    assert 0 < len(known) < RESAMPLES
    assert resampled_error(correlation, results) == float(np.std(known, ddof=1))
