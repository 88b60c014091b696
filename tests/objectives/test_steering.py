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
        (UP, (*UP[3:], None, None, None), "reported", "absent"),
        (UP, (*UP[3:], None, None, float("nan")), "reported", "absent"),
        (UP, None, "reported", "absent"),
        ((*UP, 0.0), (*(-x for x in UP), None), "reported", "weak"),
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


def test_the_few_without_a_smooth_value_do_not_decide_and_get_what_the_others_let_expect() -> None:
    rng = np.random.default_rng(1)
    reported = (*rng.normal(size=2 * ENOUGH).tolist(), -9.0, 9.0)
    smooth: list[float | None] = [2.0 * x + 0.1 * rng.normal() for x in reported]
    both = smooth[1:-2], reported[1:-2]
    smooth[0], smooth[-2:] = None, [None, float("nan")]
    found = steering(_told(reported, tuple(smooth)))
    assert (found.choices[0].used, found.choices[0].reason) == ("smooth", "correlated")
    assert found.choices[0].correlation == pytest.approx(spearmanr(*both).statistic)
    line = np.polyval(np.polyfit(both[1], both[0], 1), reported[0])
    assert found.values[0, 0] == pytest.approx(line)
    assert found.values[1:-2, 0].tolist() == both[0]
    assert found.values[-2:, 0].tolist() == [min(both[0]), max(both[0])], (
        "no value is beyond the others"
    )
    assert steering(_told(reported, tuple(smooth)), share=1.0).choices[0].reason == "absent"
    flat = steering(_told((0.5,) * 10, (*range(9), None)))
    assert flat.values[-1, 0] == 4.0


def test_others_have_a_say_and_no_values() -> None:
    ours, others = _told(UP, UP), _told(tuple(range(60)), tuple(range(0, -60, -1)))
    assert steering(ours).choices[0].used == "smooth"
    found = steering(ours, others)
    assert (found.choices[0].used, found.choices[0].reason) == ("reported", "weak")
    assert found.choices == steering([*others, *ours]).choices
    assert found.values.shape == (len(ours), 2)


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
