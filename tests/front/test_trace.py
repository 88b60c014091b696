"""The history of a search, against sums and maxima by hand and a real campaign's own hypervolume."""

from __future__ import annotations

import csv
import io

import pytest

from evomerge.front.folder import open_campaign_folder
from evomerge.front.trace import sparkline, spread_out, trace, trace_csv, trace_records
from evomerge.ledger.events import AskedCandidate, AskedEvent, SlopeEvent, StartsEvent
from evomerge.ledger.history import History
from evomerge.objectives.objective import Objective
from evomerge.objectives.origin import Origin
from tests.hand_made import asked, begin, failed, scored
from tests.tiny_runs import finished

OBJECTIVES = (Objective("a.acc", "maximize"), Objective("b.acc", "maximize"))


def test_what_was_spent_and_what_was_best_after_each_result() -> None:
    slope = SlopeEvent(batch=0, number=0, request="", weights=(1.0, 1.0), cost=2.5, elapsed=1.0)
    events = [
        *begin(),
        slope,
        asked(0, "c00000", "c00001", "c00002", "c00003"),
        scored("c00000", {"a.acc": [0.5], "b.acc": [0.5]}, elapsed=10.0),
        failed("c00001", elapsed=20.0),
        scored("c00002", {"a.acc": [0.4], "b.acc": [0.8]}, elapsed=30.0),
        scored("c00003", {"a.acc": [0.5], "b.acc": [0.5]}, elapsed=30.5, same_as="c00000"),
        scored("c00000", {"a.acc": [1.0], "b.acc": [1.0]}, "selection", elapsed=40.0),
    ]
    points = trace(History.fold(events), events, OBJECTIVES)
    assert [p.id for p in points] == ["c00000", "c00001", "c00002", "c00003"]
    assert [p.evaluations for p in points] == [3.5, 4.5, 5.5, 5.5]
    assert [p.seconds for p in points] == [10.0, 20.0, 30.0, 30.5]
    assert points[0].best == (0.5, 0.5)
    assert points[-1].best == (0.5, 0.8)
    # Boxes up to 1.1 in units of 0.6 from the ideal 0.8, by hand.
    side = 1.1 - 0.3 / 0.6
    assert points[0].hypervolume == points[1].hypervolume == pytest.approx(side * side)
    other = (1.1 - 0.4 / 0.6) * 1.1
    assert points[-1].hypervolume == pytest.approx(side * side + other - (1.1 - 0.4 / 0.6) * side)
    assert trace(History.fold(events[:3]), events[:3], OBJECTIVES) == []


def test_what_an_earlier_campaign_measured_is_not_spent() -> None:
    known = StartsEvent(genomes=((0.0,), (1.0,)), origins=("x", "x"), measured=(True, True))
    events = [
        *begin(),
        known,
        asked(0, "c00000", "c00001", "c00002"),
        scored("c00000", {"a.acc": [0.5], "b.acc": [0.5]}, shared="earlier"),
        scored("c00002", {"a.acc": [0.5], "b.acc": [0.6]}),
        scored("c00001", {"a.acc": [0.5], "b.acc": [0.7]}, shared="earlier"),
    ]
    history = History.fold(events)
    points = trace(history, events, OBJECTIVES)
    assert [p.evaluations for p in points] == [0.0, 1.0, 1.0]
    assert points[-1].evaluations == history.cost


def test_inbreeding_shows_in_how_akin_parents_are() -> None:
    genomes = {"c00000": (1.0, 0.0), "c00001": (0.0, 1.0), "c00002": (0.5, 0.5), "c00003": (0.75, 0.25)}
    parents = {"c00002": ("c00000", "c00001"), "c00003": ("c00000", "c00002")}
    candidates = tuple(
        AskedCandidate(
            id=name,
            genome=genome,
            recipe=f"recipe-{name}",
            origin=Origin(how="mean" if name in parents else "given", parents=parents.get(name)),
        )
        for name, genome in genomes.items()
    )
    events = [
        *begin(optimizer={"kind": "kinship", "population": 4, "options": {}}),
        AskedEvent(generation=0, candidates=candidates),
        *(scored(name, {"a.acc": [0.5], "b.acc": [0.5]}, elapsed=1.0) for name in genomes),
    ]
    points = trace(History.fold(events), events, OBJECTIVES)
    assert [p.kinship for p in points] == [None, None, 0.0, pytest.approx(0.5**0.5, abs=1e-6)]
    head, rows = trace_records(points, OBJECTIVES)
    assert head[-1] == "kinship of parents"
    assert [row[-1] for row in rows] == [p.kinship for p in points]


def test_a_real_campaign_ends_at_its_front() -> None:
    campaign = finished()
    opened = open_campaign_folder(campaign.directory)
    objectives = opened.history.stated.objectives
    points = trace(opened.history, opened.events, objectives)
    assert points[-1].hypervolume == pytest.approx(campaign.front.hypervolume["search"])
    assert points[-1].evaluations == campaign.front.evaluations
    volumes = [p.hypervolume for p in points]
    assert volumes == sorted(volumes)
    for index, objective in enumerate(objectives):
        every = [
            c.evaluations["search"].metrics[objective.metric].value for c in opened.history.searched()
        ]
        assert points[-1].best[index] == max(every)
    assert points[-1].items == opened.history.budget_used * opened.history.search_items
    head, rows = trace_records(points, objectives)
    read = list(csv.DictReader(io.StringIO(trace_csv(points, objectives))))
    assert [float(row["hypervolume"]) for row in read] == volumes
    assert list(read[0]) == head
    assert len(rows) == len(points)
    few = spread_out(points, 3)
    assert (few[0], few[-1], len(few)) == (points[0], points[-1], 3)


def test_a_sparkline_spans_its_numbers() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([1.0, 1.0], 10) == "▁▁"
    assert sparkline(list(range(8)), 8) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline(list(range(1000)), 40)[-1] == "█"
