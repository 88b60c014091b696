"""Regions: bounds on objectives, in which a pick must lie or a search is to look.

Unlike a constraint a region takes no model off the front: it says where to spend a budget.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from evomerge.objectives.constraint import NUMBER, Bound, Relation
from evomerge.objectives.objective import Objective
from evomerge.objectives.preference import has_bound, index_of


def is_region(stated: Any) -> bool:
    """Whether something stated is text with a bound in it."""
    return isinstance(stated, str) and has_bound(stated)


def stated_bounds(objectives: Sequence[Objective], text: str) -> tuple[Bound, ...]:
    """The bounds in text such as `math.acc>=0.6,code>=0.5`, in order.

    Raises:
        ValueError: for an unknown objective, and for a part of another form.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(rf"\s*([\w.-]+)\s*([<>]=)\s*({NUMBER})\s*", part)
        if match is None or not math.isfinite(float(match[3])):
            raise ValueError(f"`{part}` must be METRIC>=VALUE or METRIC<=VALUE")
        relation: Relation = ">=" if match[2] == ">=" else "<="
        metric = objectives[index_of(objectives, match[1])].metric
        found.append(Bound(metric, relation, float(match[3])))
    return tuple(found)


def region(objectives: Sequence[Objective], text: str) -> tuple[Bound, ...]:
    """The bounds of a region, of which each objective has at most one on a side.

    Raises:
        ValueError: as `stated_bounds`; for two bounds on one side, and for two with nothing between them.
    """
    bounds = stated_bounds(objectives, text)
    sides: dict[tuple[str, str], Bound] = {}
    for bound in bounds:
        if (bound.metric, bound.relation) in sides:
            raise ValueError(f"{bound.metric} has two bounds {bound.relation}; give one")
        sides[bound.metric, bound.relation] = bound
    for (metric, relation), low in sides.items():
        high = sides.get((metric, "<="))
        if relation == ">=" and high is not None and low.value > high.value:
            raise ValueError(f"no value keeps both `{low}` and `{high}`")
    return bounds
