"""A further budget near a preference, in the ledger of the campaign: recorded, killed, repeated, verified."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.file import BudgetSection
from evomerge.errors import Interrupted
from evomerge.ledger.ledger import read_history
from evomerge.ledger.records import RecordFile
from evomerge.objectives.pareto import chebyshev
from evomerge.optimizers.recorded_settings import to_record
from evomerge.optimizers.settings import REFINING
from evomerge.run.limits import is_reached
from evomerge.run.search import Refinement
from evomerge.run.session import is_finished
from evomerge.run.standing import line, standing
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, forked, front_text, run_file

MORE = 6
PREFER = ("--prefer", "pets=0.7,birds=0.3", "--evaluations", str(MORE))


def refine(folder: Path, *words: str) -> Any:
    return call("refine", folder, *(words or PREFER))


def copy(folder: Path) -> Path:
    shutil.copytree(finished().directory, folder)
    return folder


def plain(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events without what the clock and the place of a record say, and without where sessions ended."""
    left_out = ("n", "time", "elapsed", "seconds", "items", "statistics")
    return [
        {name: value for name, value in event.items() if name not in left_out}
        for event in events
        if event["event"] != "stopped"
    ]


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished campaign, refined undisturbed."""
    folder = copy(tmp_path_factory.mktemp("refined") / "run")
    done = refine(folder)
    assert done.code == 0, done.err
    return folder


def test_a_refinement_stands_in_the_ledger_and_costs_its_budget(refined: Path) -> None:
    events, before = events_of(refined), events_of(finished().directory)
    assert events[: len(before)] == before
    begin = events[len(before)]
    assert (begin["event"], begin["preference"], begin["evaluations"]) == ("refine", [0.7, 0.3], MORE)
    assert begin["settings"] == to_record(REFINING)
    asked = [e for e in events[len(before) :] if e["event"] == "asked"]
    assert {event["refinement"] for event in asked} == {0}
    assert len(asked) >= MORE
    paid = [
        event
        for event in events[len(before) :]
        if event["event"] == "evaluated" and event["split"] == "search" and "same_as" not in event
    ]
    assert len(paid) == MORE
    assert events[-1] | {"reason": "budget", "refinement": 0} == events[-1]
    known = [tuple(c["genome"]) for e in events if e["event"] == "asked" for c in e["candidates"]]
    assert len(set(known)) == len(known), "a genome was asked twice"


def test_verify_status_and_front_understand_it(refined: Path) -> None:
    verified = call("verify", refined)
    assert verified.code == 0, verified.err
    assert "1  refinements begun again" in verified.out
    status = call("status", refined)
    assert f"near pets.acc 0.7, birds.acc 0.3: {MORE} of {MORE} evaluations" in status.out
    numbers = call("status", refined, "--json").json
    assert numbers["evaluations"] == 18 + MORE
    assert numbers["budget"] == 18 + MORE
    assert numbers["phase"] == "done"
    assert call("front", refined, "--json").json["split"] == "selection"


def test_it_says_what_improved(refined: Path, tmp_path: Path) -> None:
    shutil.copytree(refined, tmp_path / "run")
    done = refine(tmp_path / "run", "--prefer", "pets=0.7,birds=0.3", "--evaluations", "2", "--json")
    found = done.json
    weights = np.array([0.7, 0.3])
    for name in ("before", "now"):
        expected = float(chebyshev(np.array(found[name]["scaled"]), weights))
        assert found["distance"][name] == pytest.approx(expected)
    assert found["distance"]["now"] <= found["distance"]["before"]
    assert found["evaluations"] == 2
    assert [e["event"] for e in events_of(tmp_path / "run")].count("refine") == 2
    assert call("verify", tmp_path / "run").code == 0
    shown = refine(tmp_path / "run", "--prefer", "pets=0.7,birds=0.3", "--evaluations", "1")
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines()}
    assert rows["pets.acc"][1::2] == ["%", "%"]
    # What is preferred is broken after commas only.
    assert rows["model,"] == ["by", found["now"]["id"], rows["model,"][-1]]
    assert (rows["pets=0.7,"], rows["birds=0.3"]) == ([], [])
    assert len(rows["birds.acc"]) == 4
    assert len(rows["distance"]) == 2
    assert "made_for" not in found, "no map was learned"
    assert "made for" not in shown.out + shown.err


@pytest.mark.parametrize("moment", ["driver.before_asked=kill@3", "driver.before_selection=kill"])
def test_killed_and_repeated_it_goes_on(refined: Path, tmp_path: Path, moment: str) -> None:
    folder = copy(tmp_path / "run")
    assert forked(lambda: refine(folder), moment) == -signal.SIGKILL
    assert len(events_of(folder)) < len(events_of(refined))
    done = refine(folder)
    assert done.code == 0, done.err
    assert plain(events_of(folder)) == plain(events_of(refined))
    assert front_text(folder) == front_text(refined)


def test_the_campaign_goes_on_with_its_own_budget_afterwards(refined: Path, tmp_path: Path) -> None:
    """What it asks is what it would have asked without the refinement."""
    config = json.loads(finished().file.read_text()) | {"budget": {"evaluations": 24}}
    file = finished().file.parent / "larger.yaml"
    if not file.exists():
        file.write_text(json.dumps(config))
    asked = []
    for name, begin in (("plain", finished().directory), ("refined", refined)):
        shutil.copytree(begin, tmp_path / name)
        run_file(file, tmp_path / name)
        events = [e for e in events_of(tmp_path / name) if e["event"] == "asked"]
        own = [e for e in events if "refinement" not in e]
        asked.append([c["genome"] for event in own for c in event["candidates"]])
        assert call("verify", tmp_path / name).code == 0
    assert asked[0] == asked[1]
    assert len(asked[0]) > 18


def ended(folder: Path) -> dict[str, Any]:
    """What `status` and `front` say alike of what ended the search and the last refinement."""
    found = [call(verb, folder, "--json").json for verb in ("status", "front")]
    (both,) = {(each["ended_by"], each["refinement_ended_by"]) for each in found}
    return dict(zip(("search", "refinement"), both, strict=True))


def words(verb: str, folder: Path) -> str:
    return " ".join(call(verb, folder).out.split())


@pytest.mark.parametrize(
    ("reason", "limit"), [("plateau", {"plateau": 0.9}), ("hours", {"hours": 1e-9})]
)
def test_what_ended_the_search_is_still_said_after_a_refinement(
    tmp_path: Path, reason: str, limit: dict[str, float]
) -> None:
    folder = copy(tmp_path / "run")
    file = finished().file.parent / f"ended-by-{reason}.yaml"
    budget = {"budget": {"evaluations": 60, **limit}}
    file.write_text(json.dumps(json.loads(finished().file.read_text()) | budget))
    assert run_file(file, folder).stopped == reason
    assert ended(folder) == {"search": reason, "refinement": None}
    before = words("front", folder).partition("the search was ended by ")[2]
    assert refine(folder, "--prefer", "knee", "--evaluations", "2").code == 0
    assert ended(folder) == {"search": reason, "refinement": "budget"}
    assert words("front", folder).partition("the search was ended by ")[2] == before
    assert "the last refinement" not in words("front", folder)
    done = line(standing(read_history(folder / "ledger.jsonl"), budget=None))
    assert done.endswith(" evaluations, refinement ended by its budget of evaluations")
    assert call("status", folder, "--json").json["phase"] == "done"
    assert is_finished(load_campaign(file), folder)
    known = events_of(folder)
    again = call("run", file, "--dir", folder)
    assert "this campaign is finished" in again.err
    assert events_of(folder) == known
    assert call("verify", folder).code == 0


def test_an_interrupted_refinement_is_what_goes_on_and_not_the_search(
    refined: Path, tmp_path: Path
) -> None:
    folder = copy(tmp_path / "run")

    def after_two() -> Interrupted | None:
        told = [e for e in events_of(folder) if e["event"] == "told" and "id" in e]
        return Interrupted("interrupted") if len(told) >= 2 else None

    near = Refinement((0.7, 0.3), MORE)
    with pytest.raises(Interrupted):
        run_file(finished().file, folder, refinement=near, stop_request=after_two)
    assert events_of(folder)[-1] | {"reason": "interrupted", "refinement": 0} == events_of(folder)[-1]
    assert ended(folder) == {"search": "budget", "refinement": "interrupted"}
    goes_on = "`evomerge refine` with the same --prefer and --evaluations goes on"
    assert f"of {MORE} evaluations; ended by an interrupt; {goes_on}" in words("status", folder)
    assert "ended by its budget of evaluations" in words("status", folder)
    assert f"the last refinement was ended by an interrupt; {goes_on}" in words("front", folder)
    assert "evomerge run" not in words("status", folder) + words("front", folder)
    # What it found so far is not scored on held-out items, which a run makes up for.
    shutil.copytree(folder, tmp_path / "scored")
    assert not is_finished(load_campaign(finished().file), tmp_path / "scored")
    run_file(finished().file, tmp_path / "scored")
    assert call("front", tmp_path / "scored", "--json").json["split"] == "selection"
    assert call("status", tmp_path / "scored", "--json").json["phase"] == "done"
    assert is_finished(load_campaign(finished().file), tmp_path / "scored")
    assert refine(folder).code == 0
    assert plain(events_of(folder)) == plain(events_of(refined))
    assert ended(folder) == {"search": "budget", "refinement": "budget"}


def test_a_refinement_that_is_stopped_before_it_begins_leaves_the_search_ended(tmp_path: Path) -> None:
    folder, near = copy(tmp_path / "run"), Refinement((0.7, 0.3), MORE)
    with pytest.raises(Interrupted):
        run_file(
            finished().file, folder, refinement=near, stop_request=lambda: Interrupted("interrupted")
        )
    assert ended(folder) == {"search": "budget", "refinement": "interrupted"}
    assert is_finished(load_campaign(finished().file), folder)


def test_the_hours_of_a_refinement_are_not_those_of_the_search(refined: Path, tmp_path: Path) -> None:
    folder, at = tmp_path / "run", len(events_of(finished().directory))
    shutil.copytree(refined, folder)
    events = events_of(folder)
    (folder / "ledger.jsonl").unlink()
    with RecordFile.open(folder / "ledger.jsonl", create=True) as ledger:
        for number, event in enumerate(events):
            hours = {"elapsed": event["elapsed"] + 7200.0} if number > at else {}
            ledger.append({k: v for k, v in (event | hours).items() if k not in ("n", "format")})
    budget = {"budget": {"evaluations": 24, "hours": 1.0}}
    file = finished().file.parent / "hours.yaml"
    file.write_text(json.dumps(json.loads(finished().file.read_text()) | budget))
    history = run_file(file, folder)
    assert history.stopped == "budget"
    assert history.cost_of(None) == 24
    assert history.elapsed > 7200.0 > 3600.0 > history.search_elapsed > 0.0
    history.sessions.stopped = "hours"
    assert not is_reached(history, BudgetSection(hours=1.5))
    assert call("verify", folder).code == 0


def test_with_a_learned_front_the_preferences_own_model_comes_first(tmp_path: Path) -> None:
    options = {"steps": 2, "items": 4, "look_from": 2, "look_every": 2}
    optimizer = {"kind": "learned-front", "population": 4, "options": options}
    file = write_campaign(tmp_path, optimizer=optimizer, budget={"evaluations": 8})
    folder = tmp_path / "run"
    run_file(file, folder)
    done = refine(folder, "--prefer", "pets=0.85,birds=0.15", "--evaluations", "3")
    assert done.code == 0, done.err
    asked = [e for e in events_of(folder) if e["event"] == "asked" and "refinement" in e]
    first = asked[0]["candidates"][0]
    assert first["note"] == pytest.approx([0.85, 1.0, 0.0])  # its share, unscaled, level
    assert call("verify", folder).code == 0


@pytest.mark.parametrize(
    ("prefer", "wrong"),
    [
        ("cats=1", "`cats` is no objective; objectives: pets.acc, birds.acc"),
        (
            "pets",
            "`pets` must be NAME=NUMBER; a preference is `pets.acc=0.7,birds.acc=0.3`, or `knee`",
        ),
        ("pets=0.7,pets=0.3", "`pets` is stated twice; give each objective one weight"),
        (
            "pets=0.7,pets.acc=0.3",
            "`pets` and `pets.acc` are one objective, pets.acc, stated twice; give each objective one weight",
        ),
        (
            "pets.acc>=0.6",
            "`pets.acc>=0.6` is a bound, and a preference is weights of objectives, "
            "`pets.acc=0.7,birds.acc=0.3`; bounds stand alone, as `optimizer.focus` or as a pick",
        ),
    ],
)
def test_a_preference_that_is_none_is_refused(tmp_path: Path, prefer: str, wrong: str) -> None:
    folder = copy(tmp_path / "run")
    done = refine(folder, "--prefer", prefer)
    assert done.code == 2
    assert done.err == f"error[E506] --prefer: {wrong}\n"
    assert events_of(folder) == events_of(finished().directory)
