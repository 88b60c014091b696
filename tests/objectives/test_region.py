"""Regions: bounds on objectives, as text."""

from __future__ import annotations

import re

import pytest

from evomerge.objectives.constraint import Bound
from evomerge.objectives.region import is_region, region, stated_bounds
from tests.objectives.test_preference import OBJECTIVES


def test_bounds_are_read_by_metric_or_evaluator():
    found = region(OBJECTIVES, "math>=0.6, code.loss <= 2e0,math.acc<=.9")
    assert found == (
        Bound("math.acc", ">=", 0.6),
        Bound("code.loss", "<=", 2.0),
        Bound("math.acc", "<=", 0.9),
    )


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("math>=0.6", True), ("math<1", True), ("math=1", False), ("knee", False), ({"math": 1}, False)],
)
def test_a_region_is_text_with_a_bound(stated, expected):
    assert is_region(stated) == expected


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        ("math>0.6", "`math>0.6` must be METRIC>=VALUE or METRIC<=VALUE"),
        ("math>=0.6,code.acc=1", "`code.acc=1` must be METRIC>=VALUE"),
        ("math>=1e999", "`math>=1e999` must be METRIC>=VALUE"),
        ("code>=1", "`code` is more than one objective"),
        ("math>=0.6,math.acc>=0.3", "math.acc has two bounds >=; give one"),
        ("math<=0.3,math>=0.6", "no value keeps both `math.acc >= 0.6` and `math.acc <= 0.3`"),
    ],
)
def test_what_is_none_is_refused(stated, wrong):
    with pytest.raises(ValueError, match=re.escape(wrong)):
        region(OBJECTIVES, stated)


def test_a_pick_may_have_a_bound_twice():
    assert len(stated_bounds(OBJECTIVES, "math>=0.6,math>=0.3")) == 2
