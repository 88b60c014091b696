"""What pools of several workers share: a queue, places for workers, deadlines, replacement.

A worker whose jobs are short is given its next one while it runs another, so that it never waits for the
way to the driver and back. Results still come one by one. A job that lies ready is bound to its worker, so
that where jobs are long each is given to whoever is free first.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from evomerge.errors import EnvironmentFault, Problem
from evomerge.failpoint import failpoint
from evomerge.run.job import LOST, Job, JobResult
from evomerge.run.pool.pool import WorkerState

START_GRACE = 300.0
"""Seconds more for the first job of a worker: it pays for imports and for loading the model, which no
deadline of a candidate covers."""


SHORT = 1.0
"""Seconds. A worker whose last job took less has its next one lying ready."""

MAX_STILLBORN = 20
"""Workers in a row that end before they are ready; then it is no accident."""


class WorkerLost(Exception):
    """A worker ended or cannot be reached; the message says how, `failure` is its class in the ledger."""

    def __init__(self, message: str, failure: str = "worker_died") -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(eq=False)
class Slot:
    """A place for one worker.

    Attributes:
        jobs: what the worker was given: it runs the first, and another may lie ready.
        since: monotonic seconds at which the first one began, at the latest.
        fresh: whether that is the worker's first job.
        short: whether the job before took less than `SHORT` seconds.
        ready: false while the worker waits for a machine with room for it. It gets no job then, so that no
            deadline runs meanwhile.
        began: monotonic seconds at which it could take its first job.
        busy: seconds of the jobs it has finished.
        node, pid: where it runs, once that is known.
    """

    jobs: deque[Job] = field(default_factory=deque)
    since: float = 0.0
    fresh: bool = True
    short: bool = False
    ready: bool = True
    began: float = field(default_factory=time.monotonic)
    busy: float = 0.0
    node: str = ""
    pid: int = 0

    def state(self, place: int) -> WorkerState:
        """What it does."""
        if not self.ready:
            return WorkerState(place, "waiting")
        now, job = time.monotonic(), self.job
        passed = 0.0 if job is None else now - self.since
        lived = now - self.began
        share = min(1.0, (self.busy + passed) / lived) if lived > 0.0 else None
        name = None if job is None else job.id
        return WorkerState(
            place, "idle" if job is None else "busy", self.node, self.pid, name, passed, share
        )

    @property
    def job(self) -> Job | None:
        """The job that runs; None if there is none."""
        return self.jobs[0] if self.jobs else None

    def expires(self) -> float:
        """Monotonic time at which the running job is killed; infinity without a deadline."""
        if self.job is None or self.job.deadline is None:
            return float("inf")
        return self.since + self.job.deadline + (START_GRACE if self.fresh else 0.0)


AnySlot = TypeVar("AnySlot", bound=Slot)


class SlotPool(ABC, Generic[AnySlot]):
    """A `Pool` of workers in slots; a subclass says how to start, feed, await and stop one."""

    def __init__(self) -> None:
        self._queue: deque[Job] = deque()
        self._slots: list[AnySlot] = []
        self._ready: deque[AnySlot] = deque()
        self._stillborn = 0
        self._alone: set[str] = set()

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._slots)

    @property
    def waiting(self) -> int:
        """Workers for which there is no room now."""
        return sum(not slot.ready for slot in self._slots)

    @property
    def ahead(self) -> int:
        """Jobs beyond `size` that can lie ready at workers."""
        return sum(slot.short for slot in self._slots)

    def workers(self) -> tuple[WorkerState, ...]:
        """What each worker does now."""
        return tuple(slot.state(place) for place, slot in enumerate(self._slots))

    def submit(self, job: Job) -> None:
        """Queue a job and hand it out if a worker is free.

        Raises:
            EnvironmentFault: E405, worker after worker ends before it takes a job.
        """
        self._queue.append(job)
        self._hand_out()

    def next(self, timeout: float) -> JobResult | None:
        """The next finished, failed or lost job; None after `timeout` seconds.

        Raises:
            EnvironmentFault: if no worker can be started or reached any more.
        """
        end = time.monotonic() + timeout
        while True:
            while self._ready:
                slot = self._ready.popleft()
                if slot.jobs and slot in self._slots:
                    return self._receive(slot)
            self._hand_out()
            # The longest at work first: where all have results, none must wait for ever.
            busy = sorted((slot for slot in self._slots if slot.jobs), key=lambda slot: slot.since)
            arriving = [slot for slot in self._slots if not slot.ready]
            now = time.monotonic()
            if now >= end or not (busy or (arriving and self._queue)):
                return None
            nearest = min([end, *(slot.expires() for slot in busy)])
            ready = set(self._wait([*busy, *arriving], max(0.0, nearest - now)))
            for slot in arriving:
                if slot in ready:
                    self._admit(slot)
            self._ready.extend(slot for slot in busy if slot in ready)
            for slot in busy:
                if slot not in ready and time.monotonic() >= slot.expires():
                    return self._kill(slot)

    @abstractmethod
    def _start(self) -> AnySlot:
        """A new worker in a slot."""

    @abstractmethod
    def _give(self, slot: AnySlot, job: Job) -> None:
        """Send a job to a free worker.

        Raises:
            WorkerLost: it died while it was idle.
        """

    @abstractmethod
    def _wait(self, slots: Sequence[AnySlot], seconds: float) -> Collection[AnySlot]:
        """Wait until a worker has a result, is ready, or is gone, or until time is up; all that are so."""

    def _check_ready(self, slot: AnySlot) -> None:
        """See that a worker that `_wait` named before it had a job can take one.

        Raises:
            WorkerLost: it ended before.
        """

    @abstractmethod
    def _take(self, slot: AnySlot) -> JobResult:
        """The result of a worker that `_wait` named.

        Raises:
            WorkerLost: it is gone.
        """

    @abstractmethod
    def _stop(self, slot: AnySlot) -> None:
        """Kill a worker, whatever it does."""

    def _fits_ahead(self, job: Job) -> bool:
        """Whether a job can be given to a worker that runs another, without a wait."""
        return True

    def _hand_out(self) -> None:
        for slot in list(self._slots):
            if self._queue and slot.ready and not slot.jobs:
                self._assign(slot, self._queue.popleft())
        for slot in list(self._slots):
            if self._queue and self._takes_another(slot, self._queue[0]):
                self._assign_ahead(slot, self._queue.popleft())

    def _takes_another(self, slot: AnySlot, job: Job) -> bool:
        if not slot.short or len(slot.jobs) != 1 or self._alone & {slot.jobs[0].id, job.id}:
            return False
        return self._fits_ahead(job)

    def _assign(self, slot: AnySlot, job: Job) -> None:
        try:
            self._give(slot, job)
        except WorkerLost:
            slot = self._replace(slot)
            try:
                self._give(slot, job)
            except WorkerLost as error:
                self._queue.appendleft(job)
                self._count_stillborn(error)
                return
            self._stillborn = 0
        slot.jobs.append(job)
        slot.since = time.monotonic()

    def _assign_ahead(self, slot: AnySlot, job: Job) -> None:
        try:
            self._give(slot, job)
        except WorkerLost:  # with what it runs, which `next` will find out
            self._queue.appendleft(job)
            slot.short = False
        else:
            slot.jobs.append(job)

    def _receive(self, slot: AnySlot) -> JobResult:
        job = slot.jobs[0]
        try:
            result = self._take(slot)
        except WorkerLost as error:
            lost = {LOST: time.monotonic() - slot.since}
            self._lose(slot)
            return JobResult(job.id, "lost", error.failure, str(error), seconds=lost)
        now = time.monotonic()
        slot.busy += now - slot.since
        slot.short, slot.fresh = now - slot.since < SHORT, False
        if result.status == "lost":  # it ran out of memory: what it still holds must go
            lost = {LOST: now - slot.since}
            self._lose(slot)
            return replace(result, seconds=lost)
        slot.jobs.popleft()
        slot.since = now  # the next one began no later
        self._alone.discard(job.id)
        return result

    def _admit(self, slot: AnySlot) -> None:
        try:
            self._check_ready(slot)
        except WorkerLost as error:
            self._count_stillborn(error)
            self._replace(slot)
        else:
            slot.ready, self._stillborn = True, 0
            slot.began = time.monotonic()

    def _count_stillborn(self, error: WorkerLost) -> None:
        self._stillborn += 1
        if self._stillborn > MAX_STILLBORN:
            wrong = "workers end before they are ready"
            raise EnvironmentFault(Problem("E405", wrong, str(error), field="workers")) from error

    def _kill(self, slot: AnySlot) -> JobResult:
        job, lost = slot.jobs[0], {LOST: time.monotonic() - slot.since}
        self._lose(slot)
        text = f"no result within {job.deadline:g} s"
        return JobResult(job.id, "lost", "deadline", text, seconds=lost)

    def _lose(self, slot: AnySlot) -> None:
        """Replace a worker with what it runs; what lay ready there is handed out again.

        A worker may end so soon after a result that the result is lost on its way, and the one before blamed
        for the next. Each of the two runs alone from now on, so that the next time it is certain.
        """
        _, *next_ones = slot.jobs
        if next_ones:
            self._alone.update(job.id for job in slot.jobs)
            self._queue.extendleft(reversed(next_ones))
        self._replace(slot)

    def _replace(self, slot: AnySlot) -> AnySlot:
        failpoint("pool.before_replace")
        self._stop(slot)
        fresh = self._slots[self._slots.index(slot)] = self._start()
        return fresh
