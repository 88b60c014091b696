"""Constraints: their form, their bounds, how far they are missed, and what follows in a whole campaign."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.front.compute import compute_front
from evomerge.front.front import pick
from evomerge.front.selection import worth_rescoring
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.constraint import (
    Bound,
    Constraint,
    broken,
    excess,
    faults_between,
    parse_constraint,
    violations,
)
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import Metric
from tests.hand_made import asked, begin, scored

METRICS = {"a.acc": Metric(0.5, 0.1, 10), "b.ppl": Metric(12.0, 1.0, 10), "c.x": Metric(0.0, 0.0, 1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.acc >= 0.5", Constraint("a.acc", ">=", 0.5)),
        ("b.ppl<=1.1 x base", Constraint("b.ppl", "<=", 1.1, "base")),
        (" b.ppl <= 2*math ", Constraint("b.ppl", "<=", 2.0, "math")),
        ("b.ppl <= base", Constraint("b.ppl", "<=", 1.0, "base")),
        (
            "gsm.exact_match,strict-match >= -1e-3",
            Constraint("gsm.exact_match,strict-match", ">=", -1e-3),
        ),
    ],
)
def test_forms_that_are_read(text: str, expected: Constraint) -> None:
    assert parse_constraint(text) == expected
    assert parse_constraint(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["a.acc > 0.5", "a.acc >= ", ">= 0.5", "a.acc >= 0.5 base", "a >= 1 x", "a.acc = 1", ""]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a constraint is `METRIC >= VALUE`") as caught:
        parse_constraint(text)
    assert caught.value.args[0] == "E108"
    with pytest.raises(ValueError, match="must be finite"):
        parse_constraint("a.acc >= 1e999")


def test_bounds_come_from_the_named_model() -> None:
    models = {"base": {"b.ppl": Metric(10.0, 1.0, 5)}, "math": {"b.ppl": Metric(20.0, 1.0, 5)}}
    assert parse_constraint("b.ppl <= 1.1 x base").bound(models) == Bound("b.ppl", "<=", 11.0)
    assert parse_constraint("b.ppl <= math").bound(models) == Bound("b.ppl", "<=", 20.0)
    assert parse_constraint("b.ppl <= 3").bound({}) == Bound("b.ppl", "<=", 3.0)


def test_violations_are_shares_of_the_bound_and_add_up() -> None:
    bounds = [Bound("a.acc", ">=", 0.8), Bound("b.ppl", "<=", 10.0), Bound("b.ppl", "<=", 24.0)]
    assert violations(bounds, METRICS) == pytest.approx((0.375, 0.2, -0.5))
    assert excess(bounds, METRICS) == pytest.approx(0.575)
    assert broken(bounds, METRICS) == bounds[:2]
    assert Bound("c.x", "<=", 0.0).is_kept(METRICS)
    assert Bound("a.acc", "<=", 0.0).violation(METRICS) == 0.5
    assert Bound.from_json(bounds[0].to_json()) == bounds[0]
    with pytest.raises(KeyError, match=r"d\.acc"):
        Bound("d.acc", ">=", 0.0).violation(METRICS)


def test_faults_of_constraints_beside_each_other() -> None:
    texts = [
        "a >= 0.9",
        "a <= 0.5",
        "a >= 0.1",
        "b <= 2 x cod",
        "b >= 3 x base",
        "b <= 1",
        7,
        "nonsense",
    ]
    found = faults_between(texts, ["math", "code"])
    assert [(index, code) for index, code, _ in found] == [
        (1, "E110"),
        (2, "E130"),
        (3, "E133"),
        (5, "E130"),
    ]
    assert faults_between(["a >= 0.5", "a <= 0.5"], []) == []


def history(bounds: list[Bound], texts: list[str], points: dict[str, tuple]) -> History:
    *events, baselines = begin(constraints=texts)
    events.append(replace(baselines, bounds=tuple(bounds)))
    events.append(asked(0, *points))
    for name, (a, b) in points.items():
        rows = {"a.acc": [1.0] * a + [0.0] * (10 - a), "b.acc": [1.0] * b + [0.0] * (10 - b)}
        events.append(scored(name, rows))
    return History.fold(events)


POINTS = {"c00000": (9, 1), "c00001": (6, 6), "c00002": (5, 5), "c00003": (1, 9)}


def test_only_what_keeps_all_constraints_is_on_the_front_and_rescored(tmp_path) -> None:
    bounds = [Bound("b.acc", ">=", 0.5), Bound("a.acc", ">=", 0.2)]
    found = history(bounds, ["b.acc >= 0.5", "a.acc >= 0.2"], POINTS)
    store = ItemStore(tmp_path)
    front = compute_front(found, store)
    assert [member.id for member in front.members] == ["c00001"]
    assert front.infeasible == 2
    assert front.to_json()["constraints"] == [bound.to_json() for bound in bounds]
    objectives = [Objective("a.acc", "maximize"), Objective("b.acc", "maximize")]
    assert worth_rescoring(found, objectives, store) == ["c00001"]
    # Scaled by 0.2 to 0.8, the one member is at (1/3, 1/3).
    assert front.hypervolume["search"] == pytest.approx((1.1 - 1 / 3) ** 2)


def test_where_none_keeps_them_the_front_is_empty_and_says_so(tmp_path) -> None:
    found = history([Bound("b.acc", ">=", 0.95)], ["b.acc >= 0.95"], POINTS)
    front = compute_front(found, ItemStore(tmp_path))
    assert front.members == ()
    assert front.hypervolume["search"] == 0.0
    with pytest.raises(Exception, match=r"E507.*none of 4 models keeps.*b.acc >= 0.95"):
        pick(front, "knee")
    objectives = [Objective("a.acc", "maximize"), Objective("b.acc", "maximize")]
    assert worth_rescoring(found, objectives, ItemStore(tmp_path)) == ["c00003"]


def test_a_negative_bound_is_missed_on_its_own_side() -> None:
    metrics = {"a.gain": Metric(-1.0, 0.1, 10)}
    assert Bound("a.gain", ">=", -0.5).violation(metrics) == 1.0
    assert Bound("a.gain", ">=", -4.0).violation(metrics) == -0.75
    assert Bound("a.gain", "<=", -0.5).is_kept(metrics)
