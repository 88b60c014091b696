"""Objectives: the one minus sign, outcomes in the order of the objectives, scaling."""

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Objective, Scaling, complete, raced
from evomerge.objectives.scores import Metric

OBJECTIVES = (Objective("b.loss", "minimize"), Objective("a.acc", "maximize"))
METRICS = {"a.acc": Metric(0.75, 0.1, 20), "b.loss": Metric(2.0, 0.2, 30), "c.acc": Metric(0.1, 0.0, 3)}


def test_outcomes_are_minimised_and_in_objective_order() -> None:
    assert complete(OBJECTIVES, METRICS) == Complete((2.0, -0.75), (0.2, 0.1))


def test_a_metric_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"d\.acc"):
        complete((Objective("d.acc", "maximize"),), METRICS)


def test_scaling_puts_the_best_at_0_and_the_worst_at_1() -> None:
    values = np.array([[-0.5, 3.0, 1.0], [-0.9, 2.0, 1.0], [-0.1, 5.0, 1.0]])
    scaling = Scaling.from_values(values)
    assert scaling == Scaling((-0.9, 2.0, 1.0), (-0.1, 5.0, 1.0))
    scaled = scaling.scale(values)
    assert scaled == pytest.approx(np.array([[0.5, 1 / 3, 0], [0, 0, 0], [1, 1, 0]]))
    # Better than every model so far is below 0; where all agree, distances stay as they are.
    assert scaling.scale(np.array([[-1.7, 2.0, 1.5]])) == pytest.approx(np.array([[-1.0, 0.0, 0.5]]))
    # Of a size they are shares of it.
    sizes = Scaling.from_values(np.array([[-0.5, 2e6], [-0.9, 2e6]]))
    assert sizes.scale(np.array([[-0.5, 3e6], [-0.9, 1e6]])) == pytest.approx(
        np.array([[1.0, 0.5], [0.0, -0.5]])
    )


def test_a_raced_candidate_is_told_at_its_best() -> None:
    """1.645 standard errors better than measured, whichever way better is."""
    found = raced(OBJECTIVES, METRICS, 7)
    assert found.items == 7
    assert found.bound == pytest.approx((2.0 - 1.645 * 0.2, -0.75 - 1.645 * 0.1))
