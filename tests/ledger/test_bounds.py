"""Bounds of a history: which of them follow what was measured later."""

from __future__ import annotations

from dataclasses import replace

from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.history import History
from evomerge.objectives.constraint import Bound
from tests.hand_made import begin, scored


def test_a_bound_relative_to_a_model_follows_its_score_on_each_split() -> None:
    *events, baselines = begin(constraints=["a.acc >= 0.5 x base"])
    found = History.fold([*events, replace(baselines, bounds=(Bound("a.acc", ">=", 0.1),))])
    assert bounds_of(found, "selection") == bounds_of(found) == (Bound("a.acc", ">=", 0.1),)
    found.apply(scored("base", {"a.acc": [1.0, 0.0], "b.acc": [1.0, 1.0]}, split="selection"))
    assert bounds_of(found, "selection") == (Bound("a.acc", ">=", 0.25),)
    assert bounds_of(found) == (Bound("a.acc", ">=", 0.1),)
