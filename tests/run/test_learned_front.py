"""A campaign that learns from gradients, on real models and tasks: recorded, killed, resumed, verified."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.file import OptimizerSection
from evomerge.campaign.prepared import prepared_baselines
from evomerge.campaign.recorded import recorded_space
from evomerge.errors import ConfigError
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemReference, ItemStore
from evomerge.ledger.ledger import read_history
from evomerge.ledger.records import RecordFile
from evomerge.optimizers import lesson, recorded_settings, surrogate
from evomerge.optimizers.settings import LearnedFrontSettings
from evomerge.optimizers.slopes import SlopeOptimizer
from evomerge.run.dispatch import Dispatcher
from evomerge.run.progress import Progress
from evomerge.run.replay import campaign_optimizer, seeds
from evomerge.run.slopes import SEGMENT, slope_ground
from evomerge.run.standing import line, phase_of, standing
from tests.cli.terminal import call
from tests.hand_made import fold_records
from tests.local_workers import served_workers
from tests.run.killed import is_killed_and_comes_to_the_same, plain, slopes
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, run_file

OPTIMIZER = {
    "kind": "learned-front",
    "population": 4,
    "options": {"steps": 4, "items": 4, "preferences": 2, "look_from": 2, "look_every": 2},
}
BATCHES = 4 + 2  # steps, and a look after the second and the fourth
REQUESTS = 4 * 2 + 2 * 3  # two preferences a step; the middle and both corners a look


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder that was run undisturbed."""
    root = tmp_path_factory.mktemp("learned")
    file = write_campaign(root, optimizer=OPTIMIZER, budget={"evaluations": 20})
    run_file(file, root / "run")
    return root


def test_slopes_are_recorded_before_the_first_candidate_and_paid_for(campaign: Path) -> None:
    events = events_of(campaign / "run")
    kinds = [event["event"] for event in events]
    found = slopes(campaign / "run")
    assert len(found) == REQUESTS
    assert {event["batch"] for event in found} == set(range(BATCHES))
    assert kinds.index("asked") > max(i for i, kind in enumerate(kinds) if kind == "slope")
    store = ItemStore(campaign / "run" / ITEMS_FOLDER)
    genes = len(next(e for e in events if e["event"] == "asked")["candidates"][0]["genome"])
    for event in found:
        assert len(event["losses"]) == 2
        assert all(loss > 0 for loss in event["losses"])
        if any(event["weights"]):
            gradient = store.read(ItemReference(**event["gradient"]))["gradient"]
            assert gradient.shape == (genes,)
            assert np.abs(gradient).max() > 0
        else:
            assert "gradient" not in event
    status = call("status", campaign / "run", "--json").json
    assert status["cost"] == pytest.approx(
        status["evaluations"] + sum(event["cost"] for event in found)
    )
    cost = sum(event["cost"] for event in found)
    said = f"{REQUESTS} gradients and losses cost as much as {cost:.1f} evaluations, beside"
    assert said in " ".join(call("front", campaign / "run").out.split())
    assert status["cost"] <= 20 + 1
    assert status["evaluations"] < 20


def test_the_loss_on_steps_and_the_candidates_are_real(campaign: Path) -> None:
    """`verify` asks every slope and candidate again from what is recorded, without a model."""
    verified = call("verify", campaign / "run")
    assert verified.code == 0, verified.out
    assert f"{BATCHES}  batches of slopes asked again" in verified.out


def given(directory: Path) -> set[str]:
    """Sources of the candidates that were not made by the search."""
    asked = [
        each
        for event in events_of(directory)
        if event["event"] == "asked"
        for each in event["candidates"]
    ]
    return {each["origin"]["source"] for each in asked if each.get("origin", {}).get("how") == "given"}


def test_where_it_learns_no_weights_are_evaluated_that_nobody_learned(
    campaign: Path, tmp_path: Path
) -> None:
    """MetaGPT's, unless it is told to; a ledger that does not say is of before, when they were."""
    assert given(campaign / "run") >= {"base", "uniform"}
    assert "metagpt" not in given(campaign / "run")
    options = OPTIMIZER["options"] | {"metagpt": True, "steps": 1, "look_from": 1}
    told = write_campaign(
        tmp_path, optimizer=OPTIMIZER | {"options": options}, budget={"evaluations": 12}
    )
    run_file(told, tmp_path / "run")
    assert "metagpt" in given(tmp_path / "run")
    history = read_history(campaign / "run" / "ledger.jsonl")
    assert history.campaign is not None
    opened = load_campaign(campaign / "campaign.yaml")
    assert history.prepared is not None
    space, paths = recorded_space(history), dict.fromkeys(history.prepared.checkpoints, "")
    recipes = prepared_baselines(opened, history.prepared, paths, history.candidates)
    (settings,) = history.stated.settings or ()
    earlier = {name: value for name, value in settings.items() if name != "metagpt"}
    for recorded, expected in ((settings, False), (earlier, True)):
        history.campaign = replace(history.campaign, settings=(recorded,))
        found = seeds(opened, space, recipes, history)
        assert ("metagpt" in found.values()) == expected


@pytest.mark.parametrize(
    "moment",
    ["slopes.before_record=kill@3", "slopes.before_record=kill@6", "slopes.appended=kill@3"],
)
def test_killed_among_its_slopes_it_comes_to_the_same(
    campaign: Path, tmp_path: Path, moment: str
) -> None:
    is_killed_and_comes_to_the_same(
        campaign / "campaign.yaml", tmp_path / "run", campaign / "run", moment
    )
    if moment.startswith("slopes.appended"):
        # The gradient that nobody recorded lies there still, before the one that was.
        sizes = [
            (folder / "run" / ITEMS_FOLDER / f"{SEGMENT}.bin").stat().st_size
            for folder in (tmp_path, campaign)
        ]
        assert sizes[0] > sizes[1]
        assert call("verify", tmp_path / "run").code == 0


def test_auto_killed_among_its_slopes_comes_to_the_same_also_on_its_chart(tmp_path: Path) -> None:
    """It goes on from the map to a model, which learns from all that was told and from the map."""
    options = {"steps": 2, "items": 4, "preferences": 4, "generations": 2, "inner_population": 8}
    optimizer = {"kind": "auto", "population": 4, "options": options, "focus": {"pets.acc": 1.0}}
    file = write_campaign(tmp_path, optimizer=optimizer, budget={"evaluations": 20})
    run_file(file, tmp_path / "undisturbed")
    by = {
        event["forecast"]["by"]
        for event in events_of(tmp_path / "undisturbed")
        if event.get("forecast")
    }
    assert by & {"chart", "genes"}, "only its map was asked"
    is_killed_and_comes_to_the_same(
        file, tmp_path / "run", tmp_path / "undisturbed", "slopes.before_record=kill@2"
    )


def test_its_settings_are_recorded_and_rule_when_it_goes_on(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign of other defaults is replayed by them: its ledger says what they were, or its age does."""
    monkeypatch.setattr(recorded_settings, "EARLIER", {"learned-front": {"items": 7}})
    directory = tmp_path / "run"
    shutil.copytree(campaign / "run", directory)
    (settings,) = events_of(directory)[0]["settings"]
    assert settings["steps"] == OPTIMIZER["options"]["steps"]
    assert settings["patience"] == LearnedFrontSettings().patience
    history = read_history(directory / "ledger.jsonl")
    assert history.campaign is not None
    opened = load_campaign(campaign / "campaign.yaml")
    optimizer = {**opened.config.optimizer.model_dump(), "options": {}}
    silent = replace(
        opened,
        config=opened.config.model_copy(
            update={"optimizer": OptimizerSection.model_validate(optimizer)}
        ),
    )
    asked = {}
    for name, recorded in (("then", (settings,)), ("earlier", None)):
        history.campaign = replace(history.campaign, settings=recorded)
        learning = campaign_optimizer(silent, recorded_space(history), (), history)
        assert isinstance(learning, SlopeOptimizer)
        asked[name] = [sum(map(len, request.items)) for request in learning.slopes()]
    assert asked == {"then": [2 * 4 // 2] * 2, "earlier": [2 * 7]}


def test_it_learns_from_entropies_without_labels(tmp_path: Path) -> None:
    options = {"loss": "entropy", "steps": 2, "items": 4, "look_from": 2, "look_every": 2}
    optimizer = OPTIMIZER | {"options": options}
    run_file(write_campaign(tmp_path, optimizer=optimizer, budget={"evaluations": 8}), tmp_path / "run")
    found = slopes(tmp_path / "run")
    assert len(found) == 2 + 3
    assert all(0.0 < loss < np.log(4) + 1e-9 for event in found for loss in event["losses"])
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.out
    assert "3  batches of slopes asked again" in verified.out


def test_two_workers_in_steady_state_learn_the_same(campaign: Path, tmp_path: Path) -> None:
    config = json.loads((campaign / "campaign.yaml").read_text())
    config |= {"optimizer": OPTIMIZER | {"schedule": "steady_state"}, "name": "steady"}
    config["workers"] = {"pool": "local", "count": 2}
    file = campaign / "steady.yaml"
    file.write_text(json.dumps(config))
    with served_workers():
        run_file(file, tmp_path / "run")

    def by_number(directory: Path) -> list[dict[str, Any]]:
        return sorted(map(plain, slopes(directory)), key=lambda e: (e["batch"], e["number"]))

    assert by_number(tmp_path / "run") == by_number(campaign / "run")
    assert call("verify", tmp_path / "run").code == 0


def test_a_changed_gradient_is_found(campaign: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(campaign / "run", folder)
    segment = folder / ITEMS_FOLDER / slopes(folder)[0]["gradient"]["segment"]
    content = bytearray(segment.read_bytes())
    content[-3] ^= 1
    segment.write_bytes(content)
    verified = call("verify", folder)
    assert verified.code != 0
    assert "its SHA-256 does not fit" in verified.err


def test_a_method_without_gradients_is_refused_by_name(campaign: Path, tmp_path: Path) -> None:
    space = {
        "schema": 1,
        "method": "karcher",
        "coefficients": {"weight": {"field": "layer", "low": 0.0, "high": 1.0}},
    }
    (tmp_path / "space.yaml").write_text(json.dumps(space))
    config = json.loads((campaign / "campaign.yaml").read_text())
    config["search_space"] = str(tmp_path / "space.yaml")
    file = campaign / "karcher.yaml"
    file.write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"E149.*optimizer.kind: learned-front has no gradients.*karcher.*auto"
    ):
        run_file(file, tmp_path / "run")
    assert [e["event"] for e in events_of(tmp_path / "run")] == ["campaign", "prepared"], (
        "paid for nothing"
    )
    checked = call("check", file)
    assert checked.code == 3
    assert "E149" in checked.err
    assert "the method karcher is not linear in its weights" in checked.err


def test_a_space_without_weights_of_experts_is_refused_by_check(campaign: Path, tmp_path: Path) -> None:
    space = {
        "schema": 1,
        "method": "ties",
        "coefficients": {"weight": {"value": 0.5}, "density": {"low": 0.2, "high": 0.8}},
    }
    (tmp_path / "space.yaml").write_text(json.dumps(space))
    config = json.loads((campaign / "campaign.yaml").read_text())
    config["search_space"] = str(tmp_path / "space.yaml")
    file = campaign / "densities.yaml"
    file.write_text(json.dumps(config))
    checked = call("check", file)
    assert checked.code == 3
    assert "no gene for the weight of an expert" in checked.err


def test_while_it_learns_it_says_so(campaign: Path, tmp_path: Path) -> None:
    events = events_of(campaign / "run")
    last = max(i for i, event in enumerate(events) if event["event"] == "slope")
    history = fold_records(events[: last + 1])
    now = standing(history, budget=20)
    assert now.phase == "learning"
    assert line(now).startswith(f"learning: {REQUESTS} gradients and losses, {history.cost:.1f} of 20")
    assert phase_of(fold_records(events[: last + 2])) == "search"


def test_a_baseline_without_scores_is_told_of_by_verify(campaign: Path, tmp_path: Path) -> None:
    """As in a ledger that was tampered with."""
    events = events_of(campaign / "run")
    scored = [e for e in events if e.get("id") == "base" and e["event"] == "evaluated"]
    left_out = next(e for e in scored if e["split"] == "search")
    folder = tmp_path / "run"
    shutil.copytree(campaign / "run" / ITEMS_FOLDER, folder / ITEMS_FOLDER)
    with RecordFile.open(folder / "ledger.jsonl", create=True) as ledger:
        for event in events:
            if event is not left_out:
                ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
    verified = call("verify", folder)
    assert verified.code == 7, verified.err
    assert "the baselines lack 'search', which a learned front begins from" in verified.err


def test_with_a_small_budget_half_is_left_for_candidates(campaign: Path, tmp_path: Path) -> None:
    """And with a larger one the campaign goes on from there: what was recorded is what was learned."""
    config = json.loads((campaign / "campaign.yaml").read_text()) | {"budget": {"evaluations": 4}}
    file = campaign / "small.yaml"
    file.write_text(json.dumps(config))
    history = run_file(file, tmp_path / "run")
    assert len(slopes(tmp_path / "run")) < REQUESTS
    assert history.budget_used > 0
    learned = slopes(tmp_path / "run")
    file.write_text(json.dumps(config | {"budget": {"evaluations": 9}}))
    assert run_file(file, tmp_path / "run").budget_used > history.budget_used
    assert slopes(tmp_path / "run") == learned
    assert call("verify", tmp_path / "run").code == 0


def test_a_lesson_is_planned_by_items_as_by_evaluations(campaign: Path, tmp_path: Path) -> None:
    """Not in ledgers that record no `longer`, which are of before: what they began is gone on with."""
    config = json.loads((campaign / "campaign.yaml").read_text())
    items = read_history(campaign / "run" / "ledger.jsonl").search_items
    file, found = campaign / "limited.yaml", {}
    for name, budget in {
        "evaluations": {"evaluations": 4},
        "items": {"items": 4 * items},
        "both": {"evaluations": 400, "items": 4 * items},
    }.items():
        file.write_text(json.dumps(config | {"budget": budget}))
        run_file(file, tmp_path / name)
        found[name] = [plain(event) for event in slopes(tmp_path / name)]
    assert found["items"] == found["both"] == found["evaluations"]
    assert len(found["items"]) < REQUESTS
    events = events_of(tmp_path / "both")
    allowed = {}
    for name in ("now", "before"):
        history = fold_records(events)
        ground = slope_ground(history, history.stated.objectives, recorded_space(history))
        allowed[name] = ground.allowance
        events[0]["settings"][0].pop("longer", None)
    assert allowed == {"now": 0.5 * 4 * items, "before": 0.5 * 400 * items}


def test_a_lesson_takes_at_most_half_of_the_hours(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((campaign / "campaign.yaml").read_text())
    file = campaign / "hours.yaml"
    file.write_text(json.dumps(config | {"budget": {"evaluations": 20, "hours": 10.0}}))
    elapsed = Dispatcher.elapsed
    late = [0.0]
    monkeypatch.setattr(Dispatcher, "elapsed", lambda self: elapsed(self) + late[0])

    def look(history: History, progress: Progress) -> None:
        if len(history.slopes) == 2:
            late[0] = 5 * 3600.0

    history = run_file(file, tmp_path / "run", observer=look)
    assert len(slopes(tmp_path / "run")) == 2 * 2, "two steps, for two preferences each"
    assert history.stopped == "budget"
    assert history.budget_used > 0
    late[0] = 0.0
    assert call("verify", tmp_path / "run").code == 0


def test_a_resume_where_numbers_round_otherwise_goes_on_from_the_record(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded genomes win: another processor's sums change what is asked next, and nothing before."""
    config = json.loads((campaign / "campaign.yaml").read_text())
    options = {"start": 4, "generations": 2, "inner_population": 8}
    config["optimizer"] = {"kind": "surrogate", "population": 4, "options": options}
    config |= {"name": "elsewhere", "budget": {"evaluations": 12}}
    file = campaign / "elsewhere.yaml"
    file.write_text(json.dumps(config))
    run_file(file, tmp_path / "run")
    before = [e for e in events_of(tmp_path / "run") if e["event"] == "asked"]
    chosen = surrogate.greedy
    monkeypatch.setattr(surrogate, "greedy", lambda *args: chosen(*args)[::-1])
    assert call("verify", tmp_path / "run").code == 0
    file.write_text(json.dumps(config | {"budget": {"evaluations": 20}}))
    run_file(file, tmp_path / "run")
    asked = [e for e in events_of(tmp_path / "run") if e["event"] == "asked"]
    assert asked[: len(before)] == before
    assert len(asked) > len(before)
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.err
    assert f"{len(asked)}  generations taken from the record" in verified.out


def test_a_lesson_resumed_where_preferences_round_otherwise_is_the_one_on_record(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a step, it goes on elsewhere: recorded preferences win, others are new ones."""
    file = campaign / "campaign.yaml"
    killed = forked(lambda: run_file(file, tmp_path / "run"), "slopes.before_record=kill@4")
    assert killed == -signal.SIGKILL
    before = slopes(tmp_path / "run")
    assert len(before) == 3
    assert all(len(event["note"]) == 2 + 3 for event in before)
    plain_draw = lesson.in_turn
    monkeypatch.setattr(lesson, "in_turn", lambda *args: np.nextafter(plain_draw(*args), 2.0))
    run_file(file, tmp_path / "run")
    found = slopes(tmp_path / "run")
    assert found[:3] == before
    assert len(found) == REQUESTS
    assert found[3]["note"] != slopes(campaign / "run")[3]["note"]
    monkeypatch.undo()
    verified = call("verify", tmp_path / "run")
    assert verified.code == 0, verified.err


@pytest.mark.parametrize("numbers", [0, 4])
def test_slopes_of_earlier_ledgers_are_asked_again(
    numbers: int, campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of their notes there were none, or four numbers; their maps were lines, and are again."""
    start = lesson.Lesson._start
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(lesson.Lesson, "_start", lambda self, *, curved: start(self, curved=False))
        run_file(campaign / "campaign.yaml", tmp_path / "then")
    shutil.copytree(tmp_path / "then" / ITEMS_FOLDER, folder / ITEMS_FOLDER)
    with RecordFile.open(folder / "ledger.jsonl", create=True) as ledger:
        for event in events_of(tmp_path / "then"):
            if event.get("note") and event["event"] == "slope":
                event["note"] = event["note"][:numbers]
            empty = event["event"] == "slope" and not event.get("note")
            left_out = ("n", "format", *(["note"] if empty else []))
            ledger.append({k: v for k, v in event.items() if k not in left_out})
    verified = call("verify", folder)
    assert verified.code == 0, verified.err
