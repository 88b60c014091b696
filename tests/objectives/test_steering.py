"""Steering: the smooth value while it ranks as the metric does, and the metric where it does not."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from evomerge.objectives.objective import Complete
from evomerge.objectives.steering import ENOUGH, rank_correlation, steering

UP = tuple(range(ENOUGH))


def _told(reported: tuple[float, ...], smooth: tuple[float | None, ...] | None) -> list[Complete]:
    return [
        Complete((value, 7.0 - value), (0.1, 0.1), (), () if smooth is None else (smooth[i], None))
        for i, value in enumerate(reported)
    ]


@pytest.mark.parametrize(
    ("reported", "smooth", "used", "reason"),
    [
        (UP, tuple(x**3 for x in UP), "smooth", "correlated"),
        (UP, tuple(-x for x in UP), "reported", "weak"),
        (UP[:-1], tuple(-x for x in UP[:-1]), "smooth", "too few to tell"),
        ((1.0,), (2.0,), "smooth", "too few to tell"),
        ((0.5,) * ENOUGH, UP, "smooth", "reported is constant"),
        (UP, (0.5,) * ENOUGH, "reported", "smooth is constant"),
        (UP[:3], (0.5,) * 3, "reported", "smooth is constant"),
        (UP, (*UP[1:], None), "reported", "absent"),
        (UP, (*UP[1:], float("nan")), "reported", "absent"),
        (UP, None, "reported", "absent"),
    ],
)
def test_one_value_steers_each_objective(
    reported: tuple[float, ...], smooth: tuple[float | None, ...] | None, used: str, reason: str
) -> None:
    found = steering(_told(reported, smooth))
    first, second = found.choices
    assert (first.objective, first.used, first.reason) == (0, used, reason)
    assert (second.objective, second.used, second.reason) == (1, "reported", "absent")
    assert found.values.dtype == np.float64
    expected = smooth if used == "smooth" else reported
    assert found.values.tolist() == [
        [e, 7.0 - r] for e, r in zip(expected or (), reported, strict=True)
    ]


def test_the_correlation_is_spearmans_with_ties() -> None:
    rng = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        a, b = rng.integers(0, levels, 40) / levels, rng.normal(size=40)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None


def test_nobody_told_nothing_to_steer_by() -> None:
    found = steering([])
    assert found.values.shape == (0, 0)
    assert found.choices == ()
