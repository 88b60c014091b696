"""Metrics there and back, means with their standard errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.metrics import mean_stderr

from evomerge.objectives.scores import Metric, Scores, mean_metric


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
