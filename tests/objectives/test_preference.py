"""What a person prefers, in words and in numbers."""

from __future__ import annotations

import re

import pytest

from evomerge.objectives.objective import Objective
from evomerge.objectives.preference import preference

OBJECTIVES = (
    Objective("math.acc", "maximize"),
    Objective("code.acc", "maximize"),
    Objective("code.loss", "minimize"),
)


@pytest.mark.parametrize(
    "stated",
    ["math=3,code.loss=1", "prefer:math=3, code.loss=1", {"math.acc": 0.75, "code.loss": 0.25}],
)
def test_it_is_read_alike_in_every_form(stated):
    assert preference(OBJECTIVES, stated) == pytest.approx((0.75, 0.0, 0.25))


@pytest.mark.parametrize("stated", ["knee", "prefer:knee"])
def test_at_the_knee_all_count_alike(stated):
    assert preference(OBJECTIVES, stated) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize(
    "stated", ["math=3,code.acc=1,math.acc=1", {"math": 3, "code.acc": 1, "math.acc": 1}]
)
def test_in_ledgers_the_last_weight_of_an_objective_counts(stated):
    assert preference(OBJECTIVES, stated, last_counts=True) == pytest.approx((0.5, 0.5, 0.0))


def test_with_one_objective_the_example_has_one():
    with pytest.raises(ValueError, match=re.escape("a preference is `math.acc=1`, or `knee`")):
        preference(OBJECTIVES[:1], "math")


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        ("code=1", "`code` is more than one objective; objectives: math.acc, code.acc, code.loss"),
        ({"maths": 1.0}, "`maths` is no objective"),
        ("knee=1", "`knee` is no objective"),
        ("math.ac=1", "did you mean `math.acc`"),
        ("math", "`math` must be NAME=NUMBER; a preference is `math.acc=0.7,code.acc=0.3`, or `knee`"),
        ("math=0.7,math=0.3", "`math` is stated twice; give each objective one weight"),
        ("math=0,code.acc=1,math=0.3", "`math` is stated twice"),
        (
            "math=0.7,math.acc=0.3",
            "`math` and `math.acc` are one objective, math.acc, stated twice; give each objective one weight",
        ),
        (
            {"math.acc": 0.7, "math": 0.3},
            "`math.acc` and `math` are one objective, math.acc, stated twice",
        ),
        (
            "math.acc>=0.6",
            "`math.acc>=0.6` is a bound, and a preference is weights of objectives, "
            "`math.acc=0.7,code.acc=0.3`; bounds stand alone, as `optimizer.focus` or as a pick",
        ),
        ({"math": -1.0}, "weights must be at least 0"),
        ({"math": float("nan")}, "weights must be at least 0"),
        ({}, "weights must be at least 0 and not all 0"),
    ],
)
def test_what_is_none_is_refused(stated, wrong):
    with pytest.raises(ValueError, match=re.escape(wrong)):
        preference(OBJECTIVES, stated)
