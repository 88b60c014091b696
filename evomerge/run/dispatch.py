"""Dispatch: hand jobs to a pool, take results into the ledger, decide what a failure means.

Work is done at least once and counted exactly once: equal evaluation keys are computed one time, a job
lost with its worker is tried again, and whatever is acknowledged has been fsynced before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.prepared import generation_of
from evomerge.evaluators.evaluator import GenerationEngine
from evomerge.failpoint import failpoint
from evomerge.ledger.events import Event, StoppedEvent
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import Ledger
from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.account import Account
from evomerge.run.evaluation_key import evaluation_key
from evomerge.run.job import Job, JobResult, error_of
from evomerge.run.open_work import OpenWork, Wanted
from evomerge.run.pool.pool import Pool
from evomerge.run.progress import Observer, Progress, StopRequest
from evomerge.run.racing_references import Races
from evomerge.run.result_events import (
    failed_event,
    lost_event,
    measured_event,
    same_failure,
    same_measured,
    same_race,
    same_scores,
)
from evomerge.run.safeguards import (
    INFRASTRUCTURE,
    REAL_CLOCK,
    Clock,
    deadline_seconds,
    is_given_up,
    too_many_failures,
)
from evomerge.run.shared_results import known_results
from evomerge.run.under_way import UnderWay

logger = logging.getLogger(__name__)

MEASURED = ("ok", "raced")
"""Results with scores."""


class Dispatcher:
    """Hands evaluations to a pool, each evaluation key once, and puts what comes back on record.

    It alone writes the ledger and keeps the time; its `account` knows what of the budget is left, its
    `under_way` which jobs the pool has, and `refinement` is the number of that whose session it is, None for
    the search's own.
    """

    def __init__(
        self,
        campaign: Campaign,
        directory: Path,
        ledger: Ledger,
        history: History,
        pool: Pool,
        observer: Observer | None,
        stop_request: StopRequest,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        self.campaign, self.ledger, self.history, self.pool = campaign, ledger, history, pool
        self.items = ItemStore(directory / ITEMS_FOLDER)
        racing = campaign.config.racing
        self._races = Races(campaign.objectives, racing, self.items) if racing else None
        self._shared = known_results(campaign)
        self.observer, self.stop_request = observer, stop_request
        self.phase = "prepare"
        self.under_way = UnderWay(pool, clock, self._heed_stop, self.notify)
        self._clock = clock
        self._work = OpenWork(clock)
        self.account = Account(
            campaign.config.budget,
            history,
            lambda: self.elapsed() - history.sessions.refining_seconds,
            lambda: self.open,
        )
        self.refinement: int | None = None
        self.done = 0
        self.began = clock.now()
        self.seconds_before = history.elapsed

    def record(self, event: Event) -> None:
        """Append an event and take it into the history; see `record_all`."""
        self.record_all([event])

    def record_all(self, events: Sequence[Event]) -> None:
        """Append events with one sync, then take them into the history: the only way anything gets known."""
        now, elapsed = round(time.time(), 3), round(self.elapsed(), 3)
        stamped = [replace(event, time=now, elapsed=elapsed) for event in events]
        for event in self.ledger.append_all(stamped):
            self.history.apply(event)
            self.notify()

    def stopped(self, reason: str) -> None:
        """Put on record that this session ends, and whose it was."""
        self.record(StoppedEvent(reason=reason, refinement=self.refinement))

    def elapsed(self) -> float:
        """Seconds this campaign has been running, over all its sessions."""
        return self.seconds_before + self._clock.now() - self.began

    def notify(self) -> None:
        """Show where things stand."""
        if self.observer is not None:
            seconds = self._clock.now() - self.began
            budget = self.account.whole
            running = tuple(sorted(self.under_way.ids))
            try:
                size, look = self.pool.size, self.pool.workers
                now = Progress(self.phase, running, budget, self.done, seconds, size, look)
                self.observer(self.history, now)
            except OSError as error:
                # A terminal that is gone or a log without room: no reason to stop a campaign.
                self.observer = None
                logger.warning("progress is shown no more: %s", error)

    @property
    def generation(self) -> GenerationEngine:
        """The engine that writes the answers of generation tasks."""
        return generation_of(self.campaign.config.evaluation.generation, self.history.prepared)

    def key(self, recipe: Recipe, split: Split, seen: Mapping[str, int] | None = None) -> str:
        """See `evaluation_key`; `seen`: items answered by evaluator, where not all were."""
        evaluation, prepared = self.campaign.config.evaluation, self.history.prepared
        assert prepared is not None
        return evaluation_key(recipe.digest, split, prepared, evaluation, self.generation, seen)

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
        return len(self._work)

    @property
    def idle(self) -> int:
        """Workers for which nothing is queued or under way."""
        return max(0, self.pool.size - len(self.under_way) - self._work.queued)

    def is_known(self, recipe: Recipe, split: Split) -> bool:
        """Whether the scores of a recipe, or its end in a race, are known or under way."""
        key = self.key(recipe, split)
        raced = split == "search" and recipe.digest in self.history.raced_as
        known = self.history.first_scored(key) is not None or key in self.history.failed_by_key
        return raced or known or self._work.is_open(key)

    def is_earlier(self, recipe: Recipe) -> bool:
        """Whether a campaign that this one starts from scored a recipe on search items as this one would."""
        assert self.history.prepared is not None
        if self._shared is None or not self.history.prepared.deterministic:
            return False
        return self._shared.is_earlier(self.key(recipe, "search"))

    def start(
        self,
        name: str,
        recipe: Recipe,
        split: Split,
        *,
        again: bool = False,
        references: Sequence[str] = (),
    ) -> bool:
        """Queue one recipe, unless its scores are known or already to come; whether it is settled now.

        `again`: try it although it failed before. `references`: whom it races against; a recipe that lost a
        race stays beaten.
        """
        known = self.history.candidates.get(name)
        failed = known is not None and split in known.failed_splits and not again
        if known is not None and (split in known.evaluations or failed):
            return True
        key = self.key(recipe, split)
        if self.history.first_scored(key) is not None:
            self.record(same_scores(self.history, name, recipe, key))
            return True
        if key in self.history.failed_by_key and not again:
            self._record_same_failure(name, recipe, key)
            self._breaker()
            return True
        if split == "search" and recipe.digest in self.history.raced_as:
            self.record(same_race(self.history, name, recipe))
            return True
        if self._work.join(key, name, recipe):
            return False
        entry = Wanted(key, split, [(name, recipe)], references)
        if self._found(entry):
            return True
        self._work.add(entry)
        return False

    def _found(self, entry: Wanted) -> bool:
        """Whether another campaign has measured it; then it is recorded as this one's.

        A race is decided block by block, so that what races is computed.
        """
        assert self.history.prepared is not None
        if self._shared is None or entry.references or not self.history.prepared.deterministic:
            return False
        found = self._shared.find(entry.key, entry.id)
        if found is None:
            return False
        self._record_measured([(found[0], entry)], shared=found[1])
        return True

    def settle(self, *, limited: bool = False) -> list[str] | None:
        """Hand out as many jobs as there is room for, and wait a moment for a result.

        What lies ready beside it is taken too: measurements that arrive together share their syncs. A job
        lost with its worker may wait a while before it is handed out again; others go on meanwhile. With
        `limited`, what is not under way when the campaign's hours are over is dropped.

        Returns:
            Ids settled by the results, none if none came; None once nothing is open.

        Raises:
            EvomergeError: a fault that is no candidate's; none is charged with it.
        """
        if limited and self.account.is_out_of_time():
            self._work.drop_queued()
        if not self._work:
            return None
        self._work.requeue_due()
        while self._work.queued and len(self.under_way) < self._most_running():
            entry = self._work.take()
            race = self._races.against(self.history, entry.references) if self._races else None
            stated = self.campaign.config.workers.deadline
            deadline = deadline_seconds(stated, self.history, entry.split)
            recipe, rows = entry.recipe.to_json(), entry.recipe.row_content
            job = Job(entry.id, "evaluate", recipe, entry.split, deadline, race, rows=rows)
            self.under_way.submit(replace(job, generation=self.generation))
        arrived = self.under_way.arrived(self._work.seconds_to_next_try())
        results = [(result, self._work.of(result.id)) for result in arrived]
        settled = [each for each in results if each[0].status in MEASURED]
        self._record_measured(settled)
        for _, entry in settled:
            self._work.close(entry)
        for result, entry in results:
            if result.status in MEASURED:
                continue
            if result.status == "fault":
                self.stopped("fault")
                raise error_of(result)
            if result.status == "lost" and not self._given_up(result, entry):
                if result.failure in INFRASTRUCTURE:
                    self._work.try_later(entry, self.history.candidates[entry.id].attempts_lost)
                else:
                    self._work.try_next(entry)
                continue
            self._record_failed(result, entry)
            self._work.close(entry)
            settled.append((result, entry))
        return [name for _, entry in settled for name, _ in entry.entries]

    def _most_running(self) -> int:
        """How many jobs the pool may have now.

        Nothing lies ready at a worker while others are about to have none: the last ones of a batch go to
        whoever is free first.
        """
        return self.pool.size + (self.pool.ahead if self._work.queued > self.pool.size else 0)

    def _heed_stop(self) -> None:
        stop = self.stop_request()
        if stop is not None:
            self.stopped(type(stop).__name__.lower())
            raise stop

    def _record_failed(self, result: JobResult, entry: Wanted) -> None:
        self.done += 1
        told = (entry.id, entry.split, result.failure, result.message, result.traceback)
        logger.info("%s failed on %s items: %s: %s\n%s", *told)
        self.record(failed_event(entry.id, entry.recipe, entry.split, entry.key, result))
        for name, recipe in entry.entries[1:]:
            self._record_same_failure(name, recipe, entry.key)
        self._breaker()

    def _record_measured(
        self, results: Sequence[tuple[JobResult, Wanted]], shared: str | None = None
    ) -> None:
        """Put what was measured on record: one sync for each evaluator's items, then one for the events.

        `shared`: the campaign that measured it, if that was another.
        """
        if not results:
            return
        self.done += len(results)
        stored = self.items.append_metrics([result.items for result, _ in results])
        failpoint("dispatch.after_items")
        self.record_all(
            [
                measured_event(entry, self._measured_key(result, entry), result, items, shared)
                for (result, entry), items in zip(results, stored, strict=True)
            ]
        )
        prepared = self.history.prepared
        if self._shared is not None and shared is None and prepared and prepared.deterministic:
            for result, entry in results:
                if result.status == "ok":
                    self._shared.add(entry.key, result)
        self.record_all(
            [same for result, entry in results for same in same_measured(self.history, entry, result)]
        )

    def _measured_key(self, result: JobResult, entry: Wanted) -> str:
        """Of a race that of the items which were answered."""
        if result.status == "ok":
            return entry.key
        assert result.measured is not None
        return self.key(entry.recipe, entry.split, result.measured.seen)

    def _record_same_failure(self, name: str, recipe: Recipe, key: str) -> None:
        failpoint("dispatch.before_same_failure")
        self.record(same_failure(self.history, name, recipe, key))

    def _given_up(self, result: JobResult, entry: Wanted) -> bool:
        """Note a lost attempt; whether the candidate has lost too many workers."""
        logger.info("%s lost its worker: %s: %s", entry.id, result.failure, result.message)
        self.record(lost_event(entry.id, entry.recipe, entry.split, result))
        return is_given_up(self.history.candidates[entry.id], entry.split)

    def _breaker(self) -> None:
        """Stop a campaign in which candidates fail alike or mostly.

        Raises:
            TooManyFailures: quoting the last failure.
        """
        failure = too_many_failures(self.history)
        if failure is not None:
            self.stopped("breaker")
            raise failure
