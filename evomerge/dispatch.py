"""Dispatch: hand jobs to a pool, take results into the ledger, decide what a failure means.

Work is done at least once and counted exactly once: equal evaluation keys are computed one time, a job
lost with its worker is tried again, and whatever is acknowledged has been fsynced before.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.campaign import Campaign
from evomerge.errors import EnvironmentFault, EvomergeError, Problem
from evomerge.failpoint import failpoint
from evomerge.history import ITEMS_FOLDER, Evaluation, History
from evomerge.item_store import ItemStore
from evomerge.job import Job, JobResult
from evomerge.ledger import Ledger
from evomerge.pool import Pool
from evomerge.racing_references import Races
from evomerge.recipe import Recipe, canonical_json
from evomerge.safeguards import CapacityWatch, deadline_seconds, too_many_failures
from evomerge.scores import Split

logger = logging.getLogger(__name__)

POLL = 0.25
"""Seconds between looks at signals and limits while jobs run."""

POISON = 2
"""A candidate that lost this many workers is given up: it is likely what kills them."""

MAX_LOST = 5
"""Attempts a candidate may lose in all, also with machines that went away."""


@dataclass(frozen=True)
class Progress:
    """What is going on right now, for a live display.

    `phase` is one of prepare, baselines, search, selection, done; `running` the ids under way.
    """

    phase: str
    running: tuple[str, ...]
    budget: int | None
    done_in_session: int
    seconds_in_session: float


Observer = Callable[[History, Progress], None]
StopRequest = Callable[[], EvomergeError | None]


@dataclass(frozen=True)
class _Wanted:
    """All ids that wait for one evaluation key; the first owns the job.

    `references`: whom it races against; none without a race.
    """

    key: str
    split: Split
    entries: list[tuple[str, Recipe]]
    references: Sequence[str] = ()

    @property
    def id(self) -> str:
        return self.entries[0][0]

    @property
    def recipe(self) -> Recipe:
        return self.entries[0][1]


class Dispatcher:
    """Everything between the driver's decisions and the workers."""

    def __init__(
        self,
        campaign: Campaign,
        directory: Path,
        ledger: Ledger,
        history: History,
        pool: Pool,
        observer: Observer | None,
        stop_request: StopRequest,
    ) -> None:
        self.campaign, self.ledger, self.history, self.pool = campaign, ledger, history, pool
        self.items = ItemStore(directory / ITEMS_FOLDER)
        racing = campaign.config.racing
        self._races = Races(campaign.objectives, racing, self.items) if racing else None
        self.observer, self.stop_request = observer, stop_request
        self.phase = "prepare"
        self.running: set[str] = set()
        self._waiting: dict[str, _Wanted] = {}
        self._open_keys: dict[str, _Wanted] = {}
        self._queue: deque[_Wanted] = deque()
        self._capacity = CapacityWatch()
        self.done = 0
        self.began = time.monotonic()
        self.seconds_before = history.elapsed

    def record(self, event: dict[str, Any]) -> None:
        """Append an event and take it into the history; the only way anything becomes known."""
        event["time"] = round(time.time(), 3)
        event["elapsed"] = round(self.elapsed(), 3)
        self.ledger.append(event)
        self.history.apply(self.ledger.events[-1])
        self.notify()

    def elapsed(self) -> float:
        """Seconds this campaign has been running, over all its sessions."""
        return self.seconds_before + time.monotonic() - self.began

    def notify(self) -> None:
        """Show where things stand."""
        if self.observer is not None:
            seconds = time.monotonic() - self.began
            budget = self.campaign.config.budget.evaluations
            running = tuple(sorted(self.running))
            try:
                self.observer(self.history, Progress(self.phase, running, budget, self.done, seconds))
            except OSError as error:
                # A terminal that is gone or a log without room: no reason to stop a campaign.
                self.observer = None
                logger.warning("progress is shown no more: %s", error)

    def spent(self) -> str | None:
        """`budget` or `hours` if that limit is reached, counting what is open."""
        budget = self.campaign.config.budget
        if budget.evaluations is not None and self.history.cost + self.open >= budget.evaluations:
            return "budget"
        return "hours" if self.out_of_time() else None

    def out_of_time(self) -> bool:
        """Whether the campaign's hours are over."""
        hours = self.campaign.config.budget.hours
        return hours is not None and self.elapsed() >= 3600 * hours

    def key(self, recipe: Recipe, split: Split, seen: Mapping[str, int] | None = None) -> str:
        """Evaluation key: what the scores depend on, and nothing else.

        `seen` is the number of items by evaluator where not all were answered.
        """
        assert self.history.prepared is not None
        evaluation = self.campaign.config.evaluation
        parts = {
            "recipe": recipe.digest,
            "evaluators": {n: e["digest"] for n, e in self.history.prepared["evaluators"].items()},
            "split": split,
            "blocks": "all" if seen is None else dict(seen),
            "dtype": evaluation.dtype,
            "batch_size": evaluation.batch_size,
        }
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def run_once(self, job: Job) -> dict[str, Any]:
        """Run one job by itself and return its data, trying again if its worker is lost.

        Raises:
            EnvironmentFault: if it fails, or loses its worker again and again.
            EvomergeError: the fault a worker reports.
        """
        message = ""
        for _ in range(MAX_LOST):
            self.pool.submit(job)
            self.running.add(job.id)
            result = None
            while result is None:
                result = self._wait()
            if result.status == "ok":
                return dict(result.data)
            if result.status == "fault":
                raise _fault(result)
            message = f"{result.failure}: {result.message}"
            if result.status == "failed":
                break
        raise EnvironmentFault(Problem("E405", f"the {job.kind} job failed", message))

    def evaluate(
        self, wanted: Sequence[tuple[str, Recipe]], split: Split, again: Sequence[str] = ()
    ) -> None:
        """Score recipes on a split, each evaluation key once, and wait for all of them.

        Args:
            wanted: (id, recipe) in the order in which they are handed out.
            split: whose items to score.
            again: ids to try anew although they failed in an earlier session.

        Raises:
            EvomergeError: a fault that is no candidate's; none is charged with it.
        """
        for name, recipe in wanted:
            self.start(name, recipe, split, again=name in again)
        while self.settle() is not None:
            pass

    @property
    def open(self) -> int:
        """Evaluation keys that are queued or under way."""
        return len(self._waiting)

    @property
    def idle(self) -> int:
        """Workers for which nothing is queued or under way."""
        return max(0, self.pool.size - len(self.running) - len(self._queue))

    def is_known(self, recipe: Recipe, split: Split) -> bool:
        """Whether the scores of a recipe, or its end in a race, are known or under way."""
        key = self.key(recipe, split)
        raced = split == "search" and recipe.digest in self.history.raced_as
        known = key in self.history.by_key or key in self.history.failed_by_key
        return raced or known or key in self._open_keys

    def start(
        self,
        name: str,
        recipe: Recipe,
        split: Split,
        *,
        again: bool = False,
        references: Sequence[str] = (),
    ) -> bool:
        """Queue one recipe, or let it share what is open or known by key; whether it is settled now.

        With `references` it races against these; a recipe that lost a race stays beaten.
        """
        known = self.history.candidates.get(name)
        failed = known is not None and split in known.failed_splits and not again
        if known is not None and (split in known.evaluations or failed):
            return True
        key = self.key(recipe, split)
        if key in self.history.by_key:
            self._record_same(name, recipe, key)
            return True
        if key in self.history.failed_by_key and not again:
            self._record_same_failure(name, recipe, key)
            self._breaker()
            return True
        if split == "search" and recipe.digest in self.history.raced_as:
            self._record_same_raced(name, recipe)
            return True
        if key in self._open_keys:
            self._open_keys[key].entries.append((name, recipe))
            return False
        entry = _Wanted(key, split, [(name, recipe)], references)
        self._open_keys[key] = self._waiting[name] = entry
        self._queue.append(entry)
        return False

    def settle(self, *, limited: bool = False) -> list[str] | None:
        """Hand out what fits and wait a while; ids settled since, None once nothing is open.

        With `limited`, what has not begun when the campaign's hours are over is dropped.

        Raises:
            EvomergeError: a fault that is no candidate's; none is charged with it.
        """
        if limited and self._queue and self.out_of_time():
            for entry in self._queue:
                self._forget(entry)
            self._queue.clear()
        if not self._waiting:
            return None
        while self._queue and len(self.running) < self.pool.size:
            entry = self._queue.popleft()
            recipe = entry.recipe.to_json()
            race = self._races.against(self.history, entry.references) if self._races else None
            deadline = deadline_seconds(self.campaign.config.workers.deadline, self.history)
            self.pool.submit(
                Job(
                    entry.id,
                    "evaluate",
                    recipe,
                    entry.split,
                    deadline,
                    race,
                )
            )
            self.running.add(entry.id)
        result = self._wait()
        if result is None:
            return []
        entry = self._waiting[result.id]
        if result.status == "fault":
            self.record({"event": "stopped", "reason": "fault"})
            raise _fault(result)
        if result.status == "lost" and not self._given_up(result, entry):
            self._queue.appendleft(entry)
            return []
        self._record_result(result, entry)
        self._forget(entry)
        return [name for name, _ in entry.entries]

    def _forget(self, entry: _Wanted) -> None:
        del self._waiting[entry.id], self._open_keys[entry.key]

    def _wait(self) -> JobResult | None:
        stop = self.stop_request()
        if stop is not None:
            self.record({"event": "stopped", "reason": type(stop).__name__.lower()})
            raise stop
        result = self.pool.next(POLL)
        if result is None:
            self._capacity.look(self.pool.waiting, self.pool.size)
            self.notify()
        else:
            self.running.discard(result.id)
        return result

    def _record_result(self, result: JobResult, entry: _Wanted) -> None:
        self.done += 1
        if result.status not in ("ok", "raced"):
            self.record(
                {
                    "event": "failed",
                    "id": entry.id,
                    "recipe": entry.recipe.digest,
                    "split": entry.split,
                    "key": entry.key,
                    "failure": result.failure,
                    "message": result.message[:2000],
                }
            )
            for name, recipe in entry.entries[1:]:
                self._record_same_failure(name, recipe, entry.key)
            self._breaker()
            return
        stored = self._store_items(result)
        failpoint("dispatch.after_items")
        scores = {
            "id": entry.id,
            "recipe": entry.recipe.digest,
            "split": entry.split,
            "metrics": dict(result.data["metrics"]),
            "items": stored,
            "statistics": dict(result.data.get("statistics", {})),
            "seconds": {phase: round(s, 4) for phase, s in result.seconds.items()},
        }
        if result.status == "raced":
            seen = dict(result.data["seen"])
            key = self.key(entry.recipe, entry.split, seen)
            lost_to = {"beaten_by": result.data["beaten_by"], "seen": seen}
            self.record({"event": "raced", "key": key, **lost_to, **scores})
        else:
            self.record({"event": "evaluated", "key": entry.key, **scores})
        for name, recipe in entry.entries[1:]:
            if result.status == "raced":
                self._record_same_raced(name, recipe)
            else:
                self._record_same(name, recipe, entry.key)

    def _record_same(self, name: str, recipe: Recipe, key: str) -> None:
        """The same merge under another id: its scores are those of the first."""
        owner, first = self.history.by_key[key]
        self.record(
            {
                "event": "evaluated",
                "id": name,
                "recipe": recipe.digest,
                "same_as": owner,
                **_scores(first),
            }
        )

    def _record_same_raced(self, name: str, recipe: Recipe) -> None:
        """The same merge under another id, which is as beaten as the first."""
        owner = self.history.candidates[self.history.raced_as[recipe.digest]]
        assert owner.raced is not None
        self.record(
            {
                "event": "raced",
                "id": name,
                "recipe": recipe.digest,
                "beaten_by": owner.beaten_by,
                "seen": dict(owner.seen),
                "same_as": owner.id,
                **_scores(owner.raced),
            }
        )

    def _record_same_failure(self, name: str, recipe: Recipe, key: str) -> None:
        """The same merge under another id: it failed as the first did."""
        failpoint("dispatch.before_same_failure")
        first = self.history.failed_by_key[key]
        same = {field: first[field] for field in ("event", "split", "key", "failure", "message")}
        self.record({**same, "id": name, "recipe": recipe.digest, "same_as": first["id"]})

    def _given_up(self, result: JobResult, entry: _Wanted) -> bool:
        """Note a lost attempt; whether the candidate has lost too many workers."""
        self.record(
            {
                "event": "lost",
                "id": entry.id,
                "recipe": entry.recipe.digest,
                "split": entry.split,
                "failure": result.failure,
                "message": result.message[:2000],
            }
        )
        candidate = self.history.candidates[entry.id]
        return candidate.lost.get(entry.split, 0) >= POISON or candidate.attempts_lost >= MAX_LOST

    def _store_items(self, result: JobResult) -> dict[str, Any]:
        grouped: dict[str, dict[str, Any]] = {}
        for metric, values in result.items.items():
            grouped.setdefault(metric.split(".")[0], {})[metric] = values
        return {name: self.items.append(name, arrays) for name, arrays in grouped.items()}

    def _breaker(self) -> None:
        """Stop a campaign in which candidates fail alike or mostly.

        Raises:
            TooManyFailures: quoting the last failure.
        """
        failure = too_many_failures(self.history)
        if failure is not None:
            self.record({"event": "stopped", "reason": "breaker"})
            raise failure


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """The part of an event that says what was measured."""
    return {
        "split": evaluation.split,
        "key": evaluation.key,
        "metrics": {metric: m.to_json() for metric, m in evaluation.metrics.items()},
        "items": dict(evaluation.items),
        "statistics": dict(evaluation.statistics),
    }


def _fault(result: JobResult) -> EvomergeError:
    """The error a worker met, rebuilt from plain data."""
    kinds = {kind.__name__: kind for kind in EvomergeError.__subclasses__()}
    problems = [Problem(**problem) for problem in result.data.get("problems", [])]
    return kinds.get(result.failure, EnvironmentFault)(problems or result.message)
