"""A focus that is a region: told to the campaign's own optimizer as a bound, and to nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.bounds import bounds_of
from evomerge.objectives.constraint import Bound
from tests.cli.terminal import call
from tests.run.test_refine_learned import OPTIONS, askers
from tests.tiny_models import write_campaign

REGION = Bound("pets.acc", ">=", 0.6)


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_the_search_keeps_to_it_and_the_front_shows_all(tmp_path: Path, schedule: str) -> None:
    optimizer = {
        "kind": "auto",
        "population": 4,
        "schedule": schedule,
        "options": OPTIONS,
        "focus": "pets>=0.6",
    }
    limits = ["birds.acc >= 0.1"]
    file = write_campaign(tmp_path, optimizer=optimizer, budget={"evaluations": 10}, constraints=limits)
    folder = tmp_path / "run"
    done = call("run", file, "--dir", folder)
    assert done.code == 0, done.err
    more = call("refine", folder, "--prefer", "pets=0.2,birds=0.8", "--evaluations", "2")
    assert more.code == 0, more.err
    found, opened = askers(folder), open_campaign_folder(folder)
    history = opened.history
    by_genome = {c.genome: c.evaluations["search"].metrics for c in history.searched()}
    (limit,) = bounds_of(history)
    for genome, outcome in found[None]._told:
        metrics = by_genome[genome]
        assert outcome.violations == (limit.violation(metrics), REGION.violation(metrics))
    assert any(outcome.violations[1] > 0.0 for _, outcome in found[None]._told)
    # A refinement is near a preference, wherever that is.
    assert {len(outcome.violations) for _, outcome in found[0]._told} == {1}
    front = opened.front()
    assert front.bounds == (limit,)
    assert call("verify", folder).code == 0
