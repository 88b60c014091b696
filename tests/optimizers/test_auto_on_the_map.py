"""Auto where it stays on its map: ever finer preferences, then points beside them, and no model's choice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.optimizers import auto, lesson, proposals
from evomerge.testing.problems import merge_like
from tests.optimizers.taught import taught

PROBLEM = merge_like(layers=1, items=60, seed=3)


@pytest.fixture(autouse=True)
def _few_preferences(monkeypatch):
    monkeypatch.setattr(auto, "MOST_PREFERENCES", 10)


def searched(evaluations, schedule="generational", step=1e-3, problem=PROBLEM, **options):
    """Who chose each batch, how each candidate was made, and the places of all on the chart."""
    options = {"steps": 4, "generations": 4, "inner_population": 12, **options}
    found = taught(
        "auto", tuple(replace(gene, step=step) for gene in problem.genes), problem.objectives,
        population=8, seed=1, initial=problem.initial, schedule=schedule, ground=problem.ground,
        slope=problem.slope, options=options,
    )  # fmt: skip
    by, hows, asked = [], [], []
    while len(asked) < evaluations and (batch := found.ask()):
        if found.forecast() is not None:
            by.append(found.forecast().by)
        hows += [descent.origin.how for descent in found.descents()]
        numbers = range(len(asked), len(asked) + len(batch))
        found.tell([problem.outcome(genome) for genome in batch], list(numbers))
        asked += batch
    assert len(set(asked)) == len(asked)
    return by, hows, [found.places.get(genome) for genome in asked]


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize(("chart", "many"), [("never", False), ("chosen", True)])
def test_beyond_the_listed_preferences_there_are_finer_ones(schedule, chart, many, monkeypatch):
    monkeypatch.setattr(lesson, "MANY", 1 if many else 1000)
    by, hows, places = searched(56, schedule, chart=chart)
    given = len(PROBLEM.initial)
    assert set(by) == {"map"}
    assert hows == ["given"] * given + ["map"] * (56 - given)
    assert {place[-2:] for place in places[given:]} == {(1.0, 0.0)}


def test_once_a_coarse_grid_has_no_more_of_them_points_beside_the_map_follow(monkeypatch):
    """All 216 points of the grid are asked in the end, and nobody else ever chooses a batch."""
    monkeypatch.setattr(proposals, "_TRIES", 3)  # 20 take long where a grid is nearly exhausted
    by, hows, places = searched(1000, step=0.3, chart="never")
    assert len(hows) == 6**3
    assert set(by) == {"map"}
    assert set(hows) == {"given", "map", "beside_map", "random"}
    assert hows.index("beside_map") > 10
    assert [place is not None for place in places] == [how == "map" for how in hows]


@pytest.mark.parametrize(("chart", "last"), [("chosen", "chart"), ("never", "map")])
def test_of_one_objective_a_map_has_one_point(chart, last, monkeypatch):
    """What lies beside it a model chooses, if it may."""
    monkeypatch.setattr(lesson, "MANY", 1)
    one = merge_like(layers=3, experts=1, items=60)
    by, hows, _ = searched(40, problem=one, chart=chart)
    assert hows.count("map") == 1
    assert by[-1] == last
