"""What an earlier campaign measured as this one would: all of it is told to the search, and costs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from evomerge import failpoint
from evomerge.cli.verify.invariants import verify
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import StartsEvent
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.ledger import read_events
from evomerge.run import shared_results
from evomerge.run.limits import recent_gain
from tests.cli.terminal import call
from tests.faults.bed import RUN, STEADY, session, write_toy_campaign
from tests.faults.toy import executions
from tests.run.test_starts import NSGA2, SURROGATE, space_of
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, run_file

BUDGET = 9


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy campaign that has run."""
    folder = tmp_path_factory.mktemp("earlier")
    session(write_toy_campaign(folder, {"optimizer": NSGA2}))
    return folder


def scored_by(history: History) -> dict[tuple[float, ...], Candidate]:
    """What a search has scored, by genome."""
    found = history.candidates.values()
    return {c.genome: c for c in found if not c.is_baseline and c.genome and "search" in c.evaluations}


def write_next(earlier: Path, folder: Path, optimizer: dict[str, Any] = NSGA2, **sections: Any) -> Path:
    """A toy campaign that starts from the earlier one, with a seed of its own."""
    folder.mkdir(exist_ok=True)
    begun = {**optimizer, "start_from": [str(earlier)]}
    given = {"seed": 11, "budget": {"evaluations": BUDGET}, **sections}
    return write_toy_campaign(folder, {"optimizer": begun, **given})


def starts_of(history: History) -> StartsEvent:
    """What it began with."""
    assert history.starts is not None
    return history.starts


@pytest.mark.parametrize(
    "optimizer",
    [
        *({"kind": kind, "population": 6} for kind in ("nsga2", "surrogate", "random", "cma-es")),
        {"kind": "auto", "population": 6},
        {"kind": "m2n2", "population": 6},
        STEADY["optimizer"],
        {**SURROGATE, "schedule": "steady_state"},
    ],
    ids=lambda optimizer: " ".join(map(str, optimizer.values())),
)
def test_all_that_was_measured_is_told_and_the_budget_is_for_the_rest(
    earlier: Path, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    before = open_campaign_folder(earlier / RUN).history
    history = session(write_next(earlier / RUN, tmp_path / "next", optimizer))
    known, own = scored_by(before), scored_by(history)
    assert set(known) <= set(own)
    free = [candidate for candidate in own.values() if candidate.is_free]
    repeats = [c for c in own.values() if c.evaluations["search"].same_as is not None]
    assert {c.genome for c in free} == set(known) - {c.genome for c in repeats}
    assert history.free == len(free) > 0
    assert history.budget_used == BUDGET == history.cost
    assert len(set(own) - set(known)) >= BUDGET
    assert all(
        own[genome].evaluations["search"].metrics == candidate.evaluations["search"].metrics
        for genome, candidate in known.items()
    )
    told = [name for turn in history.turns if turn.state is not None for name in turn.ids]
    assert {c.id for c in free} <= set(told)
    assert set(told[: len(known)]) >= {c.id for c in free}, "they come first"
    assert verify(tmp_path / "next" / RUN) == []
    standing = call("status", tmp_path / "next" / RUN, "--json").json
    assert (standing["evaluations"], standing["free"]) == (BUDGET, len(free))
    assert standing["starts"] == len(starts_of(history).sources) <= 6


def test_none_of_it_is_measured_again(earlier: Path, tmp_path: Path) -> None:
    history = session(write_next(earlier / RUN, tmp_path / "next"))
    keys = {c.evaluations["search"].key for c in scored_by(history).values() if c.is_free}
    assert keys
    measured = {each.key for c in history.candidates.values() for each in c.scored}
    shared = {e["key"] for e in events_of(tmp_path / "next" / RUN) if e.get("shared")}
    assert keys <= shared
    assert len(executions(tmp_path / "next")) == len(measured - shared)
    words = " ".join(call("status", tmp_path / "next" / RUN).out.split())
    assert f"known {history.free} candidates have their scores from there, which cost nothing" in words
    front = call("front", tmp_path / "next" / RUN)
    told = f"{history.free} candidates were known from earlier campaigns, beside {BUDGET} evaluations"
    assert told in " ".join(front.out.split())
    assert call("front", tmp_path / "next" / RUN, "--json").json["free"] == history.free
    page = tmp_path / "report.html"
    assert call("report", tmp_path / "next" / RUN, "-o", page).code == 0
    assert f"{history.free} known from earlier campaigns" in page.read_text()
    assert f"beside {history.free} candidates known from earlier campaigns" in page.read_text()


def test_a_model_is_asked_at_once(earlier: Path, tmp_path: Path) -> None:
    history = session(write_next(earlier / RUN, tmp_path / "next", SURROGATE))
    paid = [c for c in scored_by(history).values() if c.is_counted]
    assert {c.origin.how for c in paid if c.origin} == {"model"}
    alone = tmp_path / "alone"
    alone.mkdir()
    begun = session(
        write_toy_campaign(alone, {"optimizer": SURROGATE, "budget": {"evaluations": BUDGET}})
    )
    assert {c.origin.how for c in scored_by(begun).values() if c.origin} == {"given", "start"}


WIDER = {"weight": {"field": "layer", "low": -0.5, "high": 2.0}}
BY_MODULE = {"weight": {"field": "layer_module", "low": 0.0, "high": 1.5}}
BY_MATRIX = {"weight": {"field": "tensor", "low": 0.0, "high": 1.5}}
HALVED = {"weight": {"field": "layer", "low": 0.0, "high": 1.5, "step": 0.5}}


@pytest.mark.parametrize(
    ("fields", "all_of_them"),
    [(WIDER, True), (BY_MODULE, True), (BY_MATRIX, True), (HALVED, False)],
    ids=["wider", "by module", "by matrix", "coarser grid"],
)
def test_points_of_another_space_are_known_where_they_are_the_same_merges(
    earlier: Path, tmp_path: Path, fields: dict[str, Any], all_of_them: bool
) -> None:
    before = open_campaign_folder(earlier / RUN)
    keys = {c.evaluations["search"].key for c in scored_by(before.history).values()}
    history = session(write_next(earlier / RUN, tmp_path / "next", space=space_of(fields)))
    known = {c.evaluations["search"].key for c in scored_by(history).values() if c.is_free}
    assert known <= keys
    # Those that equal a baseline are its repeats.
    repeats = {c.evaluations["search"].key for c in history.candidates.values() if c.is_baseline}
    assert (known == keys - repeats) == all_of_them
    assert history.budget_used == BUDGET == history.cost
    assert verify(tmp_path / "next" / RUN) == []


def test_other_conditions_are_no_knowledge(earlier: Path, tmp_path: Path) -> None:
    batch = {"evaluation": {"dtype": "float32", "batch_size": 3, "threads": 1, "device": "cpu"}}
    history = session(write_next(earlier / RUN, tmp_path / "batch", **batch))
    assert starts_of(history).besides == history.free == 0
    assert not any(starts_of(history).measured)
    ties = {**space_of(WIDER), "method": "ties"}
    history = session(write_next(earlier / RUN, tmp_path / "space", space=ties))
    # Without any weight it is the base by either method.
    known = [candidate for candidate in scored_by(history).values() if candidate.is_free]
    assert all(set(candidate.genome or ()) == {0.0} for candidate in known)
    assert history.budget_used == BUDGET


def test_other_versions_are_said_to_be_why_nothing_is_known(
    earlier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shared_results, "library_versions", lambda: {"torch": "1.0"})
    history = session(write_next(earlier / RUN, tmp_path / "next"))
    assert history.free == history.shared == 0
    assert f"start_from: {earlier / RUN} was measured with other versions" in caplog.text


def test_what_is_gone_by_then_is_measured_and_paid_for(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(earlier / RUN, tmp_path / "gone")
    file = write_next(tmp_path / "gone", tmp_path / "next")
    with monkeypatch.context() as armed:
        armed.setitem(failpoint._armed, "driver.before_asked", ("raise", 1))
        with pytest.raises(failpoint.FailpointHit):
            session(file)
    shutil.rmtree(tmp_path / "gone")
    history = session(file)
    assert any(starts_of(history).measured)
    assert history.free == 0
    assert history.budget_used == BUDGET
    assert verify(file.parent / RUN) == []


def test_it_races_against_nobody(tmp_path: Path) -> None:
    """With real workers, since toys run no races."""
    before = finished()
    optimizer = {**STEADY["optimizer"], "start_from": [str(before.directory)]}
    for name in ("models", "evaluators"):
        (tmp_path / name).symlink_to(before.file.parent / name)
    sections = {"optimizer": optimizer, "racing": {"first": 1}, "budget": {"evaluations": 6}}
    history = run_file(write_campaign(tmp_path, **sections), tmp_path / RUN)
    assert history.free > 0
    assert all(c.raced is None for c in history.candidates.values() if c.is_free)
    raced = [turn for turn in history.references if turn]
    assert raced, "there is somebody to race against"
    assert verify(tmp_path / RUN) == []


def test_ledgers_that_do_not_say_so_pay_for_it(earlier: Path, tmp_path: Path) -> None:
    """Those of before: each start cost an evaluation, whatever it was taken from."""
    session(write_next(earlier / RUN, tmp_path / "next"))
    (starts,) = [e for e in events_of(tmp_path / "next" / RUN) if e["event"] == "starts"]
    assert any(starts.pop("measured"))
    found = StartsEvent.from_json(starts)
    assert found.free == frozenset()


def test_no_plateau_is_seen_in_what_was_known(earlier: Path, tmp_path: Path) -> None:
    """The last two populations' worth of four, once so much was paid for."""
    optimizer = {"kind": "random", "population": 4}
    session(write_next(earlier / RUN, tmp_path / "next", optimizer, budget={"evaluations": 16}))
    history, paid = History(), []
    for event in read_events(tmp_path / "next" / RUN / LEDGER_FILE):
        history.apply(event)
        told = [name for turn in history.turns if turn.state is not None for name in turn.ids]
        own = sum(not history.candidates[name].is_free for name in told)
        if history.baselines is not None:
            assert (recent_gain(history) is None) == (own < 16)
        paid.append(own)
    assert paid[-1] >= 16
    assert history.free > 16
