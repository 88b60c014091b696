"""Metrics there and back, means with their standard errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.metrics import mean_stderr

from evomerge.objectives.scores import Metric, Scores, apart, mean_metric


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=50))
def test_a_mean_has_the_standard_error_of_lm_eval(values: list[float]) -> None:
    metric = mean_metric(np.array(values))
    assert metric.value == pytest.approx(sum(values) / len(values))
    assert metric.stderr == pytest.approx(mean_stderr(values), abs=1e-12)
    assert metric.items == len(values)
    assert Metric.from_json(metric.to_json()) == metric


def test_a_single_item_has_no_spread() -> None:
    assert mean_metric(np.array([0.5])) == Metric(0.5, 0.0, 1)


def test_metrics_that_are_no_numbers_are_named() -> None:
    def metric(value: float) -> Metric:
        return Metric(value, 0.0, 1)

    scores = Scores({"b": metric(math.nan), "a": metric(math.inf), "c": metric(0.0)})
    assert scores.non_finite() == ["a", "b"]


def test_smooth_values_have_means_and_lie_beside_the_results() -> None:
    metric, values = Metric(0.5, 0.1, 2), np.array([0.1, -1.0])
    scores = Scores({"a.acc": metric, "a.f1": metric}, {"a.acc": np.array([0.0, 1.0])})
    found = scores.with_smooth({"a.acc": values, "a.f1": -values, "a.other": values})
    assert found.metrics["a.acc"].smooth == pytest.approx(-0.45)
    assert found.metrics["a.acc"].smooth == float(np.mean(found.smooth["a.acc"]))
    assert Metric.from_json(found.metrics["a.acc"].to_json()) == found.metrics["a.acc"]
    assert "smooth" not in metric.to_json()
    assert list(found.arrays()) == ["a.acc", "a.acc~smooth", "a.f1~smooth"]
    items, smooth = apart(found.arrays())
    assert items.keys() == {"a.acc"}
    assert smooth.keys() == {"a.acc", "a.f1"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_smooth_values_that_are_not_finite_are_absent_and_fail_nothing(bad: float) -> None:
    scores = Scores({"a.acc": Metric(0.5, 0.1, 2)}, {"a.acc": np.array([0.0, 1.0])})
    found = scores.with_smooth({"a.acc": np.array([0.5, bad])})
    assert found == scores
    assert found.non_finite() == []
