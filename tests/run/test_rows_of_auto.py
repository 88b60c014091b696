"""Campaigns of `auto` with a gene for each row, where it stays on its map: killed, refined and verified."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import Stopped
from evomerge.ledger.history import History
from evomerge.optimizers.lesson import MANY
from evomerge.optimizers.refiner import NEIGHBOURS
from evomerge.run.progress import Progress
from tests.cli.terminal import call
from tests.local_workers import served_workers
from tests.run.killed import asked, come_to_the_same, plain, slopes, told_states
from tests.tiny_models import EXPERTS, write_campaign
from tests.tiny_runs import events_of, forked, forward_passes_once, run_file

SPACE = {
    "schema": 1,
    "method": "task_arithmetic",
    "coefficients": {"weight": {"field": "row", "low": 0.0, "high": 1.5}},
}
OPTIMIZER = {
    "kind": "auto",
    "population": 4,
    "options": {
        "steps": 2,
        "items": 4,
        "preferences": 4,
        "generations": 2,
        "inner_population": 8,
    },
}
STEPS = 2 * 2 * 2
"""Split in two and twice as many, as where an expert has many genes."""

NEAR = ("--prefer", "pets=0.7,birds=0.3", "--evaluations", str(NEIGHBOURS + 1))


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Campaign folders that were run undisturbed and refined, by their schedule."""
    found = {}
    for schedule in ("generational", "steady_state"):
        found[schedule] = root = tmp_path_factory.mktemp(schedule)
        optimizer = {**OPTIMIZER, "schedule": schedule}
        file = write_campaign(
            root, space=SPACE, optimizer=optimizer, budget={"evaluations": 12}, counts=(12, 8, 8)
        )
        assert run_file(file, root / "run").stopped == "budget"
        refine(root / "run")
    return found


def refine(run: Path) -> None:
    with forward_passes_once():
        assert call("refine", run, *NEAR).code == 0


def asks(run: Path, refinement: int | None = None) -> list[dict[str, Any]]:
    """Of the campaign itself or of a refinement."""
    found = [event for event in events_of(run) if event["event"] == "asked"]
    return [event for event in found if event.get("refinement") == refinement]


def chosen_by(batches: list[dict[str, Any]]) -> list[str]:
    """Who chose each batch after the given candidates."""
    return [batch["forecast"]["by"] for batch in batches if "forecast" in batch]


def holds(run: Path) -> None:
    verified = call("verify", run)
    assert verified.code == 0, verified.out + verified.err
    assert "everything holds" in verified.out
    assert f"{STEPS + 1}  batches of slopes asked again" in verified.out
    assert "1  refinements begun again" in verified.out


def stays_on_its_map(run: Path) -> None:
    """All by itself; a refinement goes on to a model."""
    sizes = {len(candidate.genome) for candidate in asked(run)}
    assert min(sizes) == max(sizes) >= MANY * len(EXPERTS)
    assert set(chosen_by(asks(run))) == {"map"}
    hows = [each["origin"]["how"] for batch in asks(run) for each in batch["candidates"]]
    assert set(hows) == {"given", "map"}
    assert hows.count("map") >= 4
    learned = [candidate.genome for candidate in asked(run) if candidate.note is not None]
    assert len(set(learned)) == len(learned) >= hows.count("map") + NEIGHBOURS


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_it_stays_on_its_map_and_everything_holds(campaigns: dict[str, Path], schedule: str) -> None:
    """A refinement goes from the preference's neighbours to a model on the chart, of all the rows."""
    run = campaigns[schedule] / "run"
    stays_on_its_map(run)
    assert chosen_by(asks(run, refinement=0)) == ["map"] * NEIGHBOURS + ["chart"]
    holds(run)


@pytest.mark.parametrize(
    ("schedule", "moment", "told", "again"),
    [
        ("generational", "slopes.before_record=kill@5", 0, "driver.before_tell=kill@1"),
        ("generational", "driver.before_asked=kill@3", 2, "driver.before_asked=kill@2"),
        ("steady_state", "driver.after_tell=kill@8", 7, "driver.before_selection=kill@1"),
    ],
)
def test_killed_in_its_search_and_in_its_refinement_it_comes_to_the_same(
    campaigns: dict[str, Path], tmp_path: Path, schedule: str, moment: str, told: int, again: str
) -> None:
    """Also where the genomes of an ask lie beside the ledger already and the ask is not on record."""
    undisturbed, run = campaigns[schedule], tmp_path / "run"
    file = undisturbed / "campaign.yaml"
    assert forked(lambda: run_file(file, run), moment) == -signal.SIGKILL
    assert len(told_states(run)) == told
    assert run_file(file, run).stopped == "budget"
    before = len(events_of(run))
    assert forked(lambda: refine(run), again) == -signal.SIGKILL
    assert len(events_of(run)) > before
    refine(run)
    come_to_the_same(run, undisturbed / "run")
    holds(run)


def test_two_workers_stopped_midway_go_on_along_the_map(
    campaigns: dict[str, Path], tmp_path: Path
) -> None:
    """They learn what one does; which outcomes an ask knows depends on who was first."""
    undisturbed, run = campaigns["steady_state"], tmp_path / "run"
    config = json.loads((undisturbed / "campaign.yaml").read_text())
    config["workers"] = {"pool": "local", "count": 2}
    file = undisturbed / "two.yaml"
    file.write_text(json.dumps(config))
    told = 0

    def look(history: History, progress: Progress) -> None:
        nonlocal told
        told = history.tells

    def enough() -> Stopped | None:
        return Stopped("enough") if told > 6 else None

    with served_workers():
        with pytest.raises(Stopped):
            run_file(file, run, observer=look, stop_request=enough)
        before = events_of(run)
        assert run_file(file, run).stopped == "budget"
        refine(run)
    assert events_of(run)[: len(before)] == before
    found = sorted(map(plain, slopes(run)), key=lambda each: (each["batch"], each["number"]))
    assert found == list(map(plain, slopes(undisturbed / "run")))
    stays_on_its_map(run)
    holds(run)
