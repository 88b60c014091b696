"""Refinements on a learned map: what a later one knows of an earlier one, and the preference's own model."""

from __future__ import annotations

import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.campaign.campaign import campaign_from_json
from evomerge.campaign.prepared import prepared_baselines, prepared_space
from evomerge.front import selection
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemStore
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.recorded_settings import to_record
from evomerge.optimizers.refiner import Refiner
from evomerge.optimizers.settings import REFINING, AutoSettings
from evomerge.run.replay import campaign_optimizer, refiners, replay, seeds
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, run_file

OPTIONS = {"steps": 4, "items": 4, "preferences": 4, "generations": 3, "inner_population": 8}
FIRST = ("--prefer", "pets=0.85,birds=0.15", "--evaluations", "4")
SECOND = ("--prefer", "pets=0.6,birds=0.4", "--evaluations", "3")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign whose `auto` learned a map."""
    root = tmp_path_factory.mktemp("learned")
    optimizer = {"kind": "auto", "population": 4, "options": OPTIONS}
    run_file(write_campaign(root, optimizer=optimizer, budget={"evaluations": 12}), root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def twice(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, refined twice."""
    return _refined_twice(learned, tmp_path_factory.mktemp("twice") / "run")


def _refined_twice(learned: Path, folder: Path) -> Path:
    shutil.copytree(learned, folder)
    for words in (FIRST, SECOND):
        done = call("refine", folder, *words)
        assert done.code == 0, done.err
    return folder


def askers(folder: Path) -> dict[int | None, Any]:
    """The optimizers of a campaign and of its refinements, replayed to the end."""
    return optimizers_of(open_campaign_folder(folder).history, folder)


def optimizers_of(history: History, folder: Path) -> dict[int | None, Any]:
    """The same of a history that is at hand."""
    assert history.prepared is not None
    campaign = campaign_from_json(history.config)
    paths = dict.fromkeys(history.prepared.checkpoints, "")
    space = prepared_space(campaign, history.prepared, paths)
    recipes = prepared_baselines(campaign, history.prepared, paths, history.candidates)
    initial = list(seeds(campaign, space, recipes, history))
    own = campaign_optimizer(campaign, space, initial, history)
    found: dict[int | None, Any] = {}
    refine = refiners(campaign, space, initial, history, own)
    list(replay(own, refine, history, campaign.objectives, ItemStore(folder / ITEMS_FOLDER), found))
    return found


def test_a_second_refinement_knows_where_on_the_map_the_first_one_was(twice: Path) -> None:
    found, history = askers(twice), open_campaign_folder(twice).history
    noted = [c for c in history.candidates.values() if c.note is not None]
    assert {candidate.asker for candidate in noted} == {None, 0, 1}
    known = found[1].places
    for candidate in noted:
        assert candidate.genome in known, f"asked by {candidate.asker}"
        if candidate.asker is not None:
            assert known[candidate.genome] == candidate.note
        (point,) = found[1].chart.points(np.array([known[candidate.genome]]))
        # A step on the chart moves a gene by this much at most, which it does near the corners.
        assert np.abs(point - np.array(candidate.genome)).max() <= 0.03, "the place is another's"


def test_a_ledger_of_refinements_that_forgot_replays_to_the_same_states(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So wrote versions before December 2026: a state is what was asked and told, and the map."""
    with monkeypatch.context() as then:
        then.setattr(Refiner, "_places_of", lambda self, before, told: before.places)
        adopt = Refiner.__init__
        then.setattr(Refiner, "__init__", lambda self, *parts: adopt(self, *parts[:7]))
        folder = _refined_twice(learned, tmp_path / "run")
    verified = call("verify", folder)
    assert verified.code == 0, verified.err
    assert "2  refinements begun again" in verified.out
    assert isinstance(askers(folder)[None], Auto)
    more = call("refine", folder, "--prefer", "pets=0.3,birds=0.7", "--evaluations", "2")
    assert more.code == 0, more.err
    assert call("verify", folder).code == 0


@pytest.mark.parametrize("recorded", [None, {"reuse": 9}])
def test_a_refinement_goes_on_with_the_settings_that_its_beginning_recorded(
    twice: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict[str, int] | None
) -> None:
    """Before December 2026 none were recorded; then those of that time."""
    given: list[AutoSettings] = []
    make = Refiner.__init__

    def noted(self: Refiner, *parts: Any) -> None:
        given.append(parts[8])
        make(self, *parts)

    history = open_campaign_folder(twice).history
    assert [event.settings for event in history.refinements] == [to_record(REFINING)] * 2
    settings = None if recorded is None else to_record(REFINING) | recorded
    history.refinements[0] = replace(history.refinements[0], settings=settings)
    monkeypatch.setattr(Refiner, "__init__", noted)
    optimizers_of(history, twice)
    old = AutoSettings(beyond="never", scales="by_level")
    assert given == [old if recorded is None else replace(REFINING, **recorded), REFINING]


def test_the_model_that_was_made_for_the_preference_is_named_and_scored(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On selection items too, where no candidate is thought worth it."""
    folder = tmp_path / "run"
    shutil.copytree(learned, folder)
    monkeypatch.setattr(selection, "PROBABILITY", 2.0)
    monkeypatch.setattr(selection, "LEARNED", 0)
    done = call("refine", folder, *FIRST)
    assert done.code == 0, done.err
    first = next(e for e in events_of(folder) if e["event"] == "asked" and "refinement" in e)
    own = first["candidates"][0]["id"]
    chosen = [e for e in events_of(folder) if e["event"] == "selection"][-1]
    assert (chosen["ids"], chosen["made_for"]) == ([own], own)
    assert re.search(rf"^{own} is the learned front's own model for this preference$", done.err, re.M)
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0][-3:] == ["made", "for", "it"]
    scored = open_campaign_folder(folder).history.candidates[own].evaluations["selection"]
    shown = f"{100 * scored.metrics['pets.acc'].value:.1f}"
    assert next(row for row in rows if row[0] == "pets.acc")[-2] == shown
    # A further refinement near the same preference has the same model, and keeps it.
    again = call("refine", folder, *FIRST[:3], "1", "--json")
    assert again.code == 0, again.err
    assert again.json["made_for"]["id"] == own
    assert "selection" in again.json["made_for"]["metrics"]
    assert again.json["distance"]["made_for"] >= 0.0
    other = call("refine", folder, *SECOND, "--json").json
    assert other["made_for"]["id"] != own
    last = [e for e in events_of(folder) if e["event"] == "selection"][-1]
    assert last["ids"] == [own, other["made_for"]["id"]]
    assert call("verify", folder).code == 0


def test_killed_before_the_selection_it_still_names_it(
    twice: Path, learned: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(learned, folder)
    killed = forked(lambda: call("refine", folder, *FIRST), "driver.before_selection=kill")
    assert killed == -signal.SIGKILL
    done = call("refine", folder, *FIRST, "--json")
    assert done.code == 0, done.err
    chosen = [e["made_for"] for e in events_of(twice) if e["event"] == "selection" and "made_for" in e]
    assert done.json["made_for"]["id"] == chosen[0]
