"""Auto with a learned map, resumed after every batch, where a coarse grid leaves it few new points.

A batch is then filled up by further proposals, and a map's points are soon known.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.objectives.objective import Failed
from evomerge.optimizers import auto
from evomerge.optimizers.optimizer import AdoptingOptimizer
from evomerge.testing.problems import merge_like
from tests.optimizers.taught import taught

ASKS = {"generational": 4, "steady_state": 28}


def learned(problem, genes, schedule, **more):
    options = {"steps": 4, "generations": 6, "inner_population": 16, **more}
    found = taught(
        "auto", genes, problem.objectives, population=20, seed=3, initial=problem.initial,
        schedule=schedule, ground=problem.ground, slope=problem.slope, options=options,
    )  # fmt: skip
    assert isinstance(found, AdoptingOptimizer)
    return found


@pytest.mark.parametrize(
    ("step", "chart", "by_at_last"),
    [
        (0.05, "chosen", {"chart", "genes"}),
        (0.25, "chosen", {"chart", "genes"}),
        (0.25, "never", {"map"}),
    ],
)
@pytest.mark.parametrize("schedule", ASKS)
def test_whenever_it_is_resumed_it_goes_on_as_it_would_have(schedule, step, chart, by_at_last):
    """In what it asks, what it notes and expects of that, and in what it knows of its chart."""
    problem = merge_like(layers=1, items=60, seed=3)
    genes = tuple(replace(gene, step=step) for gene in problem.genes)
    undisturbed, log, count = learned(problem, genes, schedule, chart=chart), [], 0
    for turn in range(ASKS[schedule]):
        resumed = learned(problem, genes, schedule, chart=chart)
        for batch, notes, forecast, outcomes, numbers in log:
            resumed.adopt(batch, notes, forecast)
            resumed.tell(outcomes, numbers)
        assert resumed.places == undisturbed.places, turn
        assert resumed.state_digest() == undisturbed.state_digest()
        batch = undisturbed.ask()
        assert resumed.ask() == batch, turn
        record = undisturbed.notes(batch), undisturbed.forecast()
        assert (resumed.notes(batch), resumed.forecast()) == record, turn
        outcomes = [problem.outcome(genome) for genome in batch]
        numbers = list(range(count, count + len(batch)))
        count += len(batch)
        undisturbed.tell(outcomes, numbers)
        log.append((batch, *record, outcomes, numbers))
    assert undisturbed.forecast().by in by_at_last


def test_that_it_left_a_map_without_a_model_is_on_record(monkeypatch):
    """Failures alone make no model: once the map is used up it is on its chart for good."""
    monkeypatch.setattr(auto, "MOST_PREFERENCES", 30)
    problem = merge_like(layers=1, items=60, seed=3)
    undisturbed, log, by = learned(problem, problem.genes, "generational"), [], []
    for _ in range(3):
        batch = undisturbed.ask()
        log.append((batch, undisturbed.notes(batch), undisturbed.forecast()))
        by.append(undisturbed.forecast().by)
        undisturbed.tell([Failed("timeout")] * len(batch))
    assert by == ["map", "map", "chart"]
    resumed = learned(problem, problem.genes, "generational")
    for record in log:
        resumed.adopt(*record)
        resumed.tell([Failed("timeout")] * len(record[0]))
    monkeypatch.undo()  # whoever is still on the map now has further preferences
    assert resumed.ask() == undisturbed.ask()
    assert resumed.forecast() == undisturbed.forecast()
    assert undisturbed.forecast().by == "chart"
