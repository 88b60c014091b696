"""What the dispatcher records of failures, what it does after a crash between two, how it backs off."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.cli.verify.invariants import examine
from evomerge.errors import EvomergeError, Stopped, TooManyFailures
from evomerge.ledger.events import AskedEvent
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import Ledger
from evomerge.ledger.records import RecordFile
from evomerge.objectives.scores import Metric
from evomerge.recipe.recipe import Recipe
from evomerge.run.dispatch import Dispatcher
from evomerge.run.job import Job, JobResult, Measured
from tests.clocks import PlayedClock
from tests.hand_made import fold_records
from tests.tiny_runs import events_of, finished, forked


class FailingPool:
    """A pool of one worker whose every candidate fails."""

    size = 1
    waiting = 0
    ahead = 0
    workers = tuple

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
    with RecordFile.open(tmp_path / LEDGER_FILE, create=True) as ledger:
        for event in events[: last + 1]:
            ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
    return tmp_path


def _evaluate(directory: Path, names: list[str]) -> tuple[History, list[Job]]:
    campaign = load_campaign(finished().file)
    with Ledger.open(directory / LEDGER_FILE, create=False) as ledger:
        history, pool = History.fold(ledger.events), FailingPool()
        assert history.prepared is not None
        paths = dict.fromkeys(history.prepared.checkpoints, "")
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
    ids = fold_records(events_of(started)).generations[0]
    assert len(ids) >= 6
    _evaluate(started, ids)
    history = fold_records(events_of(started))
    assert (history.settled, dict(history.failed_kinds)) == (len(ids), {"nonfinite_weights": len(ids)})
    more = [f"c{number:05d}" for number in range(100, 108)]
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        first = next(e for e in ledger.events if isinstance(e, AskedEvent)).candidates[0]
        candidates = tuple(replace(first, id=name) for name in more)
        ledger.append(AskedEvent(generation=1, candidates=candidates))
    with pytest.raises(TooManyFailures, match=r"E508.*8 of 8 .*nonfinite_weights: NaN in T"):
        _evaluate(started, more)


class PlayedPool:
    """Workers on a played clock. Jobs take a second; `losses` says how a candidate's attempts end first."""

    waiting = 0
    ahead = 0
    workers = tuple

    def __init__(
        self,
        size: int,
        time: PlayedClock,
        losses: Mapping[str, list[str]],
        items: Mapping[str, np.ndarray],
    ) -> None:
        self.size, self.time, self.items = size, time, dict(items)
        self.losses = {name: list(kinds) for name, kinds in losses.items()}
        self.given: list[tuple[str, float]] = []
        self.deadlines: list[float | None] = []
        self.busy_before: list[int] = []
        self._busy: list[tuple[float, Job]] = []

    def submit(self, job: Job) -> None:
        assert len(self._busy) < self.size + self.ahead
        self.busy_before.append(len(self._busy))
        self.given.append((job.id, self.time.now() - 1000.0))
        self.deadlines.append(job.deadline)
        self._busy.append((self.time.now() + 1.0, job))

    def next(self, timeout: float) -> JobResult | None:
        done, job = min(self._busy, key=lambda entry: entry[0])
        self.time.sleep(min(timeout, max(0.0, done - self.time.now())))
        if done > self.time.now():
            return None
        self._busy.remove((done, job))
        left = self.losses.get(job.id)
        if left:
            return JobResult(job.id, "lost", left.pop(0), "gone")
        measured = Measured({"pets.acc": Metric(0.5, 0.1, 4)})
        return JobResult(job.id, "ok", measured=measured, items=self.items)

    def close(self) -> None:
        self._busy.clear()


class Bed:
    """A dispatcher over a played pool, in a campaign folder whose first candidates may be evaluated."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        size: int,
        losses: Mapping[str, list[str]],
        stop: Callable[[float], EvomergeError | None] = lambda now: None,
        items: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.time = PlayedClock()
        self.pool = PlayedPool(size, self.time, losses, items or {})
        campaign, history = load_campaign(finished().file), History.fold(ledger.events)
        assert history.prepared is not None
        paths = dict.fromkeys(history.prepared.checkpoints, "")
        self.space = space = prepared_space(campaign, history.prepared, paths)
        lowest = [gene.low for gene in space.genes]
        self.recipes: list[Recipe] = []
        for place in range(6):  # other merges than those on record
            genome = space.snap([*lowest[:-1], lowest[-1] + 0.013 + 0.017 * place])
            self.recipes.append(space.decode(genome))
        self.history = history
        self.dispatcher = Dispatcher(
            campaign, folder, ledger, history, self.pool, None,
            lambda: stop(self.time.now() - 1000.0), self.time.clock,
        )  # fmt: skip

    def evaluate(self, count: int) -> None:
        names = [f"c{number:05d}" for number in range(count)]
        self.dispatcher.evaluate(list(zip(names, self.recipes, strict=False)), "search")


def test_a_lost_job_waits_longer_each_time_and_nobody_else_does(started: Path) -> None:
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 2, {"c00000": ["node_lost"] * 3})
        bed.evaluate(6)
    given = bed.pool.given
    assert [(name, at) for name, at in given if name != "c00000"] == [
        ("c00001", 0.0), ("c00002", 1.0), ("c00003", 1.0), ("c00004", 2.0), ("c00005", 3.0),
    ]  # fmt: skip
    # Lost at 1, 3, and so on: each wait counts from the loss.
    assert [at for name, at in given if name == "c00000"] == [0.0, 2.0, 6.0, 16.0]
    assert all("search" in bed.history.candidates[f"c{n:05d}"].evaluations for n in range(6))


def test_results_that_arrive_together_share_their_syncs(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {"pets.acc": np.ones(4), "birds.acc": np.zeros(4)}
    syncs: list[int] = []
    sync = os.fsync
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 4, {"c00003": ["worker_died"]}, items=items)
        applied: list[int] = []
        bed.history.apply = lambda event: (
            applied.append(len(syncs)) or History.apply(bed.history, event)
        )  # type: ignore
        monkeypatch.setattr(os, "fsync", lambda file: (syncs.append(file), sync(file)))
        bed.evaluate(4)
    # The folder's name and both segments' for the first batch, then a sync of each segment and of the ledger.
    made = len(syncs) - 3 - 1 - 3
    assert applied == [made + 3] * 3 + [made + 4] + [made + 7]
    events = events_of(started)[-5:]
    assert [(event["event"], event["id"]) for event in events] == [
        ("evaluated", "c00000"), ("evaluated", "c00001"), ("evaluated", "c00002"),
        ("lost", "c00003"), ("evaluated", "c00003"),
    ]  # fmt: skip
    store = ItemStore(started / "items")
    for name in ("c00000", "c00001", "c00002", "c00003"):
        for evaluator, reference in bed.history.candidates[name].evaluations["search"].items.items():
            assert (store.read(reference)[f"{evaluator}.acc"] == items[f"{evaluator}.acc"]).all()


def test_the_wait_is_not_in_the_deadline(started: Path) -> None:
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {"c00000": ["node_lost", "worker_died"]})
        bed.evaluate(1)
    assert [at for _, at in bed.pool.given] == [0.0, 2.0, 6.0], "handed out when its wait is over"
    assert len(set(bed.pool.deadlines)) == 1, "each attempt has the whole of it"
    assert bed.pool.deadlines[0] is not None


@pytest.mark.parametrize("failure", ["deadline", "out_of_memory"])
def test_what_ran_out_of_time_or_memory_is_tried_at_once(started: Path, failure: str) -> None:
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {"c00000": [failure]})
        bed.evaluate(2)
    assert bed.pool.given == [("c00000", 0.0), ("c00000", 1.0), ("c00001", 2.0)]


def test_machines_may_go_away_five_times(started: Path) -> None:
    losses = {"c00000": ["node_lost"] * 5, "c00001": ["node_lost"] * 6, "c00002": ["worker_died"] * 2}
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 3, losses)
        bed.evaluate(3)
    failures = {name: bed.history.candidates[name].failure for name in losses}
    assert failures == {"c00000": None, "c00001": "node_lost", "c00002": "worker_died"}
    assert len([name for name, _ in bed.pool.given if name == "c00001"]) == 6


def test_a_stop_is_heard_while_everything_waits(started: Path) -> None:
    """The longest wait is 30 s; a stop that is asked for in its middle is heard within a quarter."""
    asked_at = 60.0

    def stop(now: float) -> EvomergeError | None:
        return Stopped("enough") if now >= asked_at else None

    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {"c00000": ["node_lost"] * 5}, stop)
        with pytest.raises(Stopped, match="enough"):
            bed.evaluate(1)
    assert events_of(started)[-1]["event"] == "stopped"
    assert asked_at <= bed.time.now() - 1000.0 <= asked_at + 0.25
    assert max(bed.time.slept) <= 0.25


def test_what_waits_is_dropped_when_the_hours_are_over(started: Path) -> None:
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {"c00000": ["node_lost"]})
        bed.dispatcher.start("c00000", bed.recipes[0], "search")
        while not bed.history.candidates["c00000"].attempts_lost:
            bed.dispatcher.settle(limited=True)
        assert bed.dispatcher.open == bed.dispatcher.idle == 1, "a worker is free for another"
        bed.dispatcher.account.is_out_of_time = lambda: True  # type: ignore[method-assign]
        assert bed.dispatcher.settle(limited=True) is None
        assert bed.dispatcher.open == 0


def test_what_is_under_way_is_in_the_budget(started: Path) -> None:
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {})
        budget = bed.dispatcher.campaign.config.budget.evaluations
        assert budget is not None
        bed.history.budget_used = budget - 1
        assert bed.dispatcher.account.spent() is None
        bed.dispatcher.start("c00000", bed.recipes[0], "search")
        assert bed.dispatcher.account.spent() == "budget"


def test_a_key_is_of_all_that_scores_depend_on(started: Path) -> None:
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {})
        dispatcher, campaign = bed.dispatcher, bed.dispatcher.campaign
        keys = {
            dispatcher.key(bed.recipes[0], "search"),
            dispatcher.key(bed.recipes[1], "search"),
            dispatcher.key(bed.recipes[0], "selection"),
            dispatcher.key(bed.recipes[0], "search", {"pets": 3}),
        }
        for change in ({"dtype": "float64"}, {"batch_size": 77}):
            evaluation = campaign.config.evaluation.model_copy(update=change)
            config = campaign.config.model_copy(update={"evaluation": evaluation})
            dispatcher.campaign = replace(campaign, config=config)
            keys.add(dispatcher.key(bed.recipes[0], "search"))
    assert len(keys) == 6


def test_what_was_mended_is_tried_again_where_that_is_asked(started: Path) -> None:
    history, jobs = _evaluate(started, ["c00000"])
    assert (len(jobs), history.failures()) == (1, {"nonfinite_weights": 1})
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 1, {})
        genome = bed.history.candidates[bed.history.generations[0][-1]].genome
        assert genome is not None
        recipe = bed.space.decode(genome)
        bed.dispatcher.evaluate([("c00000", recipe)], "search")
        assert bed.pool.given == []
        bed.dispatcher.evaluate([("c00000", recipe)], "search", again=["c00000"])
        assert [name for name, _ in bed.pool.given] == ["c00000"]
        assert bed.history.candidates["c00000"].failure is None


def test_the_last_jobs_of_a_batch_go_to_whoever_is_free_first(started: Path) -> None:
    """Others lie ready behind those that run; the last ones behind nobody."""
    with Ledger.open(started / LEDGER_FILE, create=False) as ledger:
        bed = Bed(started, ledger, 2, {})
        bed.pool.ahead = 1
        bed.evaluate(6)
    busy = bed.pool.busy_before
    assert len(busy) == 6
    assert max(busy[:-2]) == 2, "one lies ready"
    assert max(busy[-2:]) < 2
