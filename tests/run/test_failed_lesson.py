"""Campaigns on real models whose gradients fail: what is said of it, when a lesson ends, what follows."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.campaign.campaign import identity_digest
from evomerge.errors import TooManyFailures
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.ledger import read_events, read_history
from evomerge.ledger.records import RecordFile
from evomerge.report.progress import _stages
from evomerge.report.sentences import slopes_failed_words
from evomerge.run.failed_lesson import what_to_do
from evomerge.run.job import Job, WorkerSetup
from evomerge.run.log import LOG_FILE
from evomerge.run.pool.inline import InlinePool
from evomerge.run.slopes import PASSES
from evomerge.run.standing import line, standing
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, forked, front_text, run_file

STEPS = 6
AUTO = {
    "kind": "auto",
    "population": 4,
    "options": {"steps": STEPS, "items": 4, "generations": 2, "inner_population": 8},
}
LEARNED = {
    "kind": "learned-front",
    "population": 4,
    "options": {"steps": STEPS, "items": 4, "look_from": 2, "look_every": 2},
}
BUDGET = {"evaluations": 10}
TRIES = 2
REASON = "MemoryError: no room"
LAST = "gradients failed, all of the last steps: out_of_memory: MemoryError: no room"


class Backward:
    """`torch.autograd.backward` that runs out of memory in some of the steps, which have two passes each."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        self.fails, self.calls, self.refused = fails, 0, 0
        self._plain = torch.autograd.backward

    def __call__(self, *args: Any) -> None:
        if self.fails(self.calls // 2):
            self.refused += 1
            # The second try comes next, and after it the next step.
            self.calls += 2 if self.refused % TRIES == 0 else 0
            raise MemoryError("no room")
        self.calls += 1
        self._plain(*args)


def failing(patch: pytest.MonkeyPatch, fails: Callable[[int], bool] = lambda _: True) -> Backward:
    """Let the gradients of some steps fail, by their number."""
    backward = Backward(fails)
    patch.setattr(torch.autograd, "backward", backward)
    return backward


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder with `auto`, run while no gradient could be had."""
    root = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patch:
        backward = failing(patch)
        run_file(write_campaign(root, optimizer=AUTO, budget=BUDGET), root / "run")
    assert backward.refused == 3 * TRIES
    return root


def slopes(directory: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(directory) if event["event"] == "slope"]


def states(directory: Path) -> list[str]:
    return [event["state"] for event in events_of(directory) if event["event"] == "told"]


def warnings(directory: Path) -> list[str]:
    lines = (directory / LOG_FILE).read_text().splitlines()
    return [line for line in lines if "WARNING evomerge.run.s" in line]


def test_auto_goes_on_without_gradients_after_three_steps(root: Path) -> None:
    found = slopes(root / "run")
    assert [event["failure"] for event in found] == ["out_of_memory"] * 3
    history = read_history(root / "run" / "ledger.jsonl")
    assert history.stopped == "budget"
    assert history.budget_used == BUDGET["evaluations"], "failures cost nothing"
    hows = {c.origin.how for c in history.candidates.values() if c.origin is not None}
    assert hows
    assert not hows & {"map", "chart"}
    assert all(forecast is None or forecast.by == "genes" for forecast in history.forecasts)
    verified = call("verify", root / "run")
    assert verified.code == 0, verified.out
    assert "3  batches of slopes asked again" in verified.out


def test_the_log_warns_of_each_and_says_once_what_to_do(root: Path) -> None:
    *each, end = warnings(root / "run")
    assert len(each) == 3
    for number, text in enumerate(each):
        assert f"slope.{number}.0 failed and is left out: out_of_memory: {REASON}" in text
        assert ("begin another campaign with a smaller `evaluation.batch_size`" in text) == (
            number == 0
        )
        assert ("an optimizer without gradients (`kind: surrogate`)" in text) == (number == 0)
    assert f"the lesson has ended early: 3 of 3 {LAST}" in end
    assert end.endswith("the search goes on without gradients, by the surrogate on the genes")


def test_status_and_front_and_report_say_how_many_failed_and_why(root: Path) -> None:
    out = " ".join(call("status", root / "run").out.split())
    assert "slopes 0 gradients and losses; with the merges 10.0 evaluations" in out
    assert f"3 more failed, mostly out_of_memory: {REASON}" in out
    assert "failed 3 slopes" in out
    found = call("status", root / "run", "--json").json
    assert (found["slopes"], found["slopes_failed"]) == (0, 3)
    assert found["slope_failure"].startswith(f"out_of_memory: {REASON}")
    assert found["failures"] == {}
    several = call("status", root / "run", root / "run").out
    assert several.count("3 slopes") == 2
    front = call("front", root / "run")
    assert "0 gradients and losses cost as much as 0.0 evaluations, beside 10 of merges; 3 failed" in (
        " ".join(front.out.split())
    )
    shown = call("front", root / "run", "--json").json
    assert shown["slopes_failed"] == 3
    assert "slopes" not in shown
    history = read_history(root / "run" / "ledger.jsonl")
    assert slopes_failed_words(history).startswith(
        "3 of 3 gradients and losses could not be had, mostly"
    )
    now = standing(history, budget=10, phase="learning")
    assert line(now) == "learning: 0 gradients and losses, 3 failed, 10.0 of 10 evaluations"
    page = root / "report.html"
    assert call("report", root / "run", "--output", page).code == 0
    text = page.read_text()
    assert (
        "3 of 3 gradients and losses could not be had, mostly out_of_memory: MemoryError: no room"
        in text
    )
    assert "3 slopes failed" in text
    assert "0 slopes" not in text


def test_failed_slopes_are_listed_beside_failed_candidates(root: Path) -> None:
    listed = call("status", root / "run", "--failed").out
    assert (
        "no candidate has failed\ngradients and losses that could not be had:\nout_of_memory: "
        in listed
    )
    assert listed.endswith("  3: slope.0.0, slope.1.0, slope.2.0\n")
    found = call("status", root / "run", "--failed", "--json").json
    assert found["failed"] == []
    assert [each["id"] for each in found["slopes_failed"]] == ["slope.0.0", "slope.1.0", "slope.2.0"]
    for each in found["slopes_failed"]:
        assert each["class"] == "out_of_memory"
        assert each["message"].startswith(REASON)


@pytest.mark.parametrize("moment", ["slopes.before_record=kill@3", "driver.before_asked=kill@2"])
def test_killed_it_comes_to_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """In the middle of the lesson, and after it: a resume gives up at the same step, and says so again."""
    failing(monkeypatch)
    file = root / "campaign.yaml"
    assert forked(lambda: run_file(file, tmp_path / "run"), moment) == -signal.SIGKILL
    before = len(slopes(tmp_path / "run"))
    assert before == (2 if moment.startswith("slopes") else 3)
    run_file(file, tmp_path / "run")
    assert len(slopes(tmp_path / "run")) == 3
    assert states(tmp_path / "run") == states(root / "run")
    assert front_text(tmp_path / "run") == front_text(root / "run")
    assert "the lesson has ended early" in warnings(tmp_path / "run")[-1]


def test_some_that_fail_do_not_end_a_lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda step: step not in (2, 5))
    history = run_file(write_campaign(tmp_path, optimizer=LEARNED, budget=BUDGET), tmp_path / "run")
    steps = [event for event in slopes(tmp_path / "run") if any(event["weights"])]
    assert [event.get("failure") is None for event in steps] == [n in (2, 5) for n in range(STEPS)]
    assert {c.origin.how for c in history.candidates.values() if c.origin is not None} & {"map"}
    assert not any("ended early" in text for text in warnings(tmp_path / "run"))
    measured = len(slopes(tmp_path / "run")) - 4
    found = call("status", tmp_path / "run", "--json").json
    assert (found["slopes"], found["slopes_failed"]) == (measured, 4)
    assert call("verify", tmp_path / "run").code == 0
    named = [name for name, _ in _stages(history, read_events(tmp_path / "run" / "ledger.jsonl"))]
    assert named[0] == f"({measured} slopes)"


def test_a_lesson_that_learned_something_ends_with_its_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda step: step > 0)
    history = run_file(write_campaign(tmp_path, optimizer=LEARNED, budget=BUDGET), tmp_path / "run")
    steps = [event for event in slopes(tmp_path / "run") if any(event["weights"])]
    assert [event.get("failure") is None for event in steps] == [True, False, False, False]
    assert history.stopped == "budget"
    assert "map" in {c.origin.how for c in history.candidates.values() if c.origin is not None}
    (end,) = [text for text in warnings(tmp_path / "run") if "ended early" in text]
    assert end.endswith("the search goes on with the map as learned so far")
    assert call("verify", tmp_path / "run").code == 0


def test_a_learned_front_without_any_gradient_is_stopped_before_the_first_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = failing(monkeypatch)
    file = write_campaign(tmp_path, optimizer=LEARNED, budget=BUDGET)
    match = (
        r"E508.*no gradient could be had, and the optimizer learns from nothing else; 3 of 3 .*"
        r"out_of_memory: MemoryError: no room.*; a gradient takes more memory than an evaluation; "
        r"begin another campaign with a smaller `evaluation.batch_size`"
    )
    for _ in range(2):  # the same again when it is gone on with, at once
        with pytest.raises(TooManyFailures, match=match):
            run_file(file, tmp_path / "run")
        assert backward.refused == 3 * TRIES
    events = events_of(tmp_path / "run")
    assert events[-1]["reason"] == "breaker"
    assert not [event for event in events if event["event"] == "asked"]
    assert call("status", tmp_path / "run").code == 0
    assert call("verify", tmp_path / "run").code == 0


def test_a_ledger_that_records_no_limit_is_gone_on_with_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there was one lessons never ended, and the map that nothing was learned into counted."""
    failing(monkeypatch)
    old = {**AUTO, "options": {**AUTO["options"], "give_up": 0}}
    run_file(write_campaign(tmp_path, optimizer=old, budget=BUDGET), tmp_path / "then")
    assert len([e for e in slopes(tmp_path / "then") if any(e["weights"])]) == STEPS
    folder = tmp_path / "run"
    shutil.copytree(tmp_path / "then" / ITEMS_FOLDER, folder / ITEMS_FOLDER)
    with RecordFile.open(folder / "ledger.jsonl", create=True) as ledger:
        for event in events_of(tmp_path / "then"):
            if event["event"] == "campaign":
                assert event["settings"][0].pop("give_up") == 0
                del event["config"]["optimizer"]["options"]["give_up"]
                event["identity"] = identity_digest(event["config"])
            ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
    verified = call("verify", folder)
    assert f"{STEPS + 1}  batches of slopes asked again" in verified.out, verified.err
    assert "E505" not in verified.err
    history = read_history(folder / "ledger.jsonl")
    assert "map" in {c.origin.how for c in history.candidates.values() if c.origin is not None}


def test_a_slope_has_a_deadline_in_proportion_to_its_cost(tmp_path: Path) -> None:
    """At least an evaluation's; a look at what is held back is a small one."""
    jobs: list[Job] = []

    class Recording(InlinePool):
        def submit(self, job: Job) -> None:
            jobs.append(job)
            super().submit(job)

    def pool(setup: WorkerSetup) -> InlinePool:
        return Recording(setup)

    options = LEARNED["options"] | {"items": 64, "steps": 1, "splits": 1, "look_from": 1}
    file = write_campaign(
        tmp_path,
        optimizer=LEARNED | {"options": options},
        budget={"evaluations": 12},
        workers={"pool": "inline", "count": 1, "deadline": 30.0},
    )
    history: History = run_file(file, tmp_path / "run", pool=pool)
    step, *look = [job for job in jobs if job.kind == "slope"]
    assert step.slope is not None
    items = sum(map(len, step.slope.items.values()))
    assert step.deadline == pytest.approx(30.0 * PASSES * items / history.search_items)
    assert step.deadline > 60.0
    assert {job.deadline for job in look} == {30.0}
    scored = [job for job in jobs if job.kind == "evaluate" and job.id.startswith("c")]
    assert {job.deadline for job in scored} == {30.0}


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("out_of_memory", "a smaller `evaluation.batch_size`"),
        ("deadline", "raise `workers.deadline`"),
        ("nonfinite_logits", "if others fail too, mend the cause"),
    ],
)
def test_what_helps_against_a_failure_is_said(failure: str, words: str) -> None:
    assert words in what_to_do(failure)
    assert "an optimizer without gradients (`kind: surrogate`)" in what_to_do(failure)
