"""Campaigns that learn from gradients of a method of whole tensors, and those from before they could."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.recorded import recorded_space
from evomerge.ledger.history import ITEMS_FOLDER
from evomerge.ledger.item_store import ItemReference, ItemStore
from evomerge.ledger.ledger import read_history
from evomerge.optimizers.recorded_settings import to_record
from evomerge.optimizers.slopes import SlopeOptimizer
from evomerge.run import driver, replay
from evomerge.run.replay import campaign_optimizer
from evomerge.run.slopes import slope_ground
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, run_file

SPACE = {
    "schema": 1,
    "method": "tsv_m",
    "coefficients": {"weight": {"field": "layer", "low": 0.0, "high": 1.5}},
}
OPTIONS: dict[str, Any] = {"steps": 2, "items": 4, "look_from": 2, "look_every": 2}
BUDGET = {"evaluations": 8}


def test_a_front_is_learned_of_parts(tmp_path: Path) -> None:
    optimizer = {"kind": "learned-front", "population": 4, "options": OPTIONS}
    file = write_campaign(tmp_path, space=SPACE, optimizer=optimizer, budget=BUDGET)
    assert call("check", file).code == 0
    run_file(file, tmp_path / "run")
    events = events_of(tmp_path / "run")
    slopes = [event for event in events if event["event"] == "slope"]
    assert len(slopes) == 2 + 3, "two steps, and a look at the middle and both corners"
    store = ItemStore(tmp_path / "run" / ITEMS_FOLDER)
    gradients = [ItemReference(**event["gradient"]) for event in slopes if any(event["weights"])]
    assert len(gradients) == 2
    assert all(np.count_nonzero(store.read(each)["gradient"]) > 4 for each in gradients)
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.out
    assert "3  batches of slopes asked again" in verified.out


def test_a_campaign_from_before_goes_on_without_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun when there were none of such methods, and no setting that says so."""
    with monkeypatch.context() as then:
        then.setattr(driver, "to_record", recorded_then)
        then.setattr(replay, "slope_ground", lambda *given: slope_ground(*given[:3], False))
        section = {"kind": "auto", "population": 4, "options": {}}
        file = write_campaign(tmp_path, space=SPACE, optimizer=section, budget=BUDGET)
        run_file(file, tmp_path / "run")
    assert "whole_tensors" not in (tmp_path / "run" / "ledger.jsonl").read_text()
    kinds = {event["event"] for event in events_of(tmp_path / "run")}
    assert "asked" in kinds
    assert "slope" not in kinds
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.out + verified.err

    history, opened = read_history(tmp_path / "run" / "ledger.jsonl"), load_campaign(file)
    assert history.campaign is not None
    (settings,) = history.stated.settings or ()
    wanted = []
    for recorded in (settings, {**settings, "whole_tensors": True}):
        history.campaign = replace(history.campaign, settings=(recorded,))
        optimizer = campaign_optimizer(opened, recorded_space(history), (), history)
        assert isinstance(optimizer, SlopeOptimizer)
        wanted.append(len(optimizer.slopes()))
    assert wanted[0] == 0 < wanted[1]


def recorded_then(settings: Any) -> dict[str, Any]:
    """What a ledger had of settings before that one came."""
    return {name: value for name, value in to_record(settings).items() if name != "whole_tensors"}


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("tsv_m", {"whole_tensors": False}, "`whole_tensors: false` leaves out tsv_m"),
        ("iso_c", {}, "the method iso_c is not linear in its weights"),
        ("ram", {}, "the method ram has no weights of experts; take optimizer.kind auto"),
    ],
)
def test_check_says_why_nothing_is_learned(
    tmp_path: Path, method: str, options: dict[str, Any], words: str
) -> None:
    optimizer = {"kind": "learned-front", "population": 4, "options": options}
    coefficients = {} if method == "ram" else SPACE["coefficients"]
    space = SPACE | {"method": method, "coefficients": coefficients}
    checked = call("check", write_campaign(tmp_path, space=space, optimizer=optimizer))
    assert checked.code == 3
    assert words in " ".join(checked.err.split())


def test_options_of_the_method_are_named_with_it(tmp_path: Path) -> None:
    optimizer = {"kind": "learned-front", "population": 4}
    space = SPACE | {"method": "ties", "options": {"election": "after"}}
    checked = call("check", write_campaign(tmp_path, space=space, optimizer=optimizer))
    assert "the method ties with election: after is not linear in its weights" in checked.err
