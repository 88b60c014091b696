"""What the dispatcher records of failures, and what it does after a crash between two of them."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from evomerge.campaign import load_campaign
from evomerge.dispatch import Dispatcher
from evomerge.errors import TooManyFailures
from evomerge.history import LEDGER_FILE, History
from evomerge.job import Job, JobResult
from evomerge.ledger import Ledger
from evomerge.prepared import prepared_space
from evomerge.verify import examine
from tests.tiny_runs import events_of, finished, forked


class FailingPool:
    """A pool of one worker whose every candidate fails."""

    size = 1
    waiting = 0

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self._queue.append(job)

    def next(self, timeout: float) -> JobResult | None:
        if not self._queue:
            return None
        return JobResult(self._queue.popleft().id, "failed", "nonfinite_weights", "NaN in T")

    def close(self) -> None:
        self._queue.clear()


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A campaign folder that ends with a generation of which every candidate is the same merge."""
    events = events_of(finished().directory)
    last = next(i for i, event in enumerate(events) if event["event"] == "asked")
    for entry in events[last]["candidates"]:
        entry["recipe"] = events[last]["candidates"][-1]["recipe"]
    with Ledger.open(tmp_path / LEDGER_FILE, create=True) as ledger:
        for event in events[: last + 1]:
            ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
    return tmp_path


def _evaluate(directory: Path, names: list[str]) -> tuple[History, list[Job]]:
    campaign = load_campaign(finished().file)
    with Ledger.open(directory / LEDGER_FILE, create=False) as ledger:
        history, pool = History.fold(ledger.events), FailingPool()
        assert history.prepared is not None
        paths = dict.fromkeys(history.prepared["checkpoints"], "")
        space = prepared_space(campaign, history.prepared, paths)
        genome = history.candidates[history.generations[0][-1]].genome
        assert genome is not None
        recipe = space.decode(genome)
        dispatcher = Dispatcher(campaign, directory, ledger, history, pool, None, lambda: None)
        dispatcher.evaluate([(name, recipe) for name in names], "search")
    return history, pool.jobs


def test_a_crash_between_two_that_fail_alike_counts_one(started: Path) -> None:
    names = ["c00000", "c00001", "c00002"]
    kill = "dispatch.before_same_failure=kill@2"
    assert forked(lambda: _evaluate(started, names), kill) == -9
    assert [e["id"] for e in events_of(started) if e["event"] == "failed"] == names[:2]
    history, jobs = _evaluate(started, names)
    assert jobs == []
    assert history.budget_used == 1
    assert history.failures() == {"nonfinite_weights": 3}
    failed = [event for event in events_of(started) if event["event"] == "failed"]
    assert [event.get("same_as") for event in failed] == [None, "c00000", "c00000"]
    assert len({event["key"] for event in failed}) == 1
    problems = [str(problem) for problem in examine(started).problems]
    assert not [text for text in problems if "fail" in text or "budget" in text or "key" in text]


def test_the_breaker_counts_those_that_share_a_failure(started: Path) -> None:
    ids = History.fold(events_of(started)).generations[0]
    assert len(ids) >= 6
    _evaluate(started, ids)
    history = History.fold(events_of(started))
    assert (history.settled, dict(history.failed_kinds)) == (len(ids), {"nonfinite_weights": len(ids)})
    more = [f"c{number:05d}" for number in range(100, 108)]
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        first = next(e for e in ledger.events if e["event"] == "asked")["candidates"][0]
        entries = [{**first, "id": name} for name in more]
        ledger.append({"event": "asked", "generation": 1, "candidates": entries})
    with pytest.raises(TooManyFailures, match=r"E508.*8 of 8 .*nonfinite_weights: NaN in T"):
        _evaluate(started, more)
