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


def test_at_the_knee_all_count_alike():
    assert preference(OBJECTIVES, "knee") == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        ("code=1", "`code` is more than one objective; objectives: math.acc, code.acc, code.loss"),
        ({"maths": 1.0}, "`maths` is no objective"),
        ("math.ac=1", "did you mean `math.acc`"),
        ("math", "`math` must be NAME=NUMBER"),
        ({"math": -1.0}, "weights must be at least 0"),
        ({"math": float("nan")}, "weights must be at least 0"),
        ({}, "weights must be at least 0 and not all 0"),
    ],
)
def test_what_is_none_is_refused(stated, wrong):
    with pytest.raises(ValueError, match=re.escape(wrong)):
        preference(OBJECTIVES, stated)
