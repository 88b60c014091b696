"""What pools of several workers share: a queue, places for workers, deadlines, replacement."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from evomerge.job import Job, JobResult

START_GRACE = 300.0
"""Seconds more for the first job of a worker: it pays for imports and for loading the model, which no
deadline of a candidate covers."""


class WorkerLost(Exception):
    """A worker ended or cannot be reached; the message says how."""


@dataclass(eq=False)
class Slot:
    """A place for one worker: the job it runs, since when (monotonic), whether it ran one before."""

    job: Job | None = None
    since: float = 0.0
    fresh: bool = True

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

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._slots)

    def submit(self, job: Job) -> None:
        """Queue a job and hand it out if a worker is free."""
        self._queue.append(job)
        self._hand_out()

    def next(self, timeout: float) -> JobResult | None:
        """The next finished, failed or lost job; None after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            self._hand_out()
            busy = [slot for slot in self._slots if slot.job is not None]
            now = time.monotonic()
            if not busy or now >= end:
                return None
            nearest = min(end, *(slot.expires() for slot in busy))
            ready = self._wait(busy, max(0.0, nearest - now))
            for slot in busy:
                if slot in ready:
                    return self._receive(slot)
                if time.monotonic() >= slot.expires():
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
    def _wait(self, busy: Sequence[AnySlot], seconds: float) -> Collection[AnySlot]:
        """Wait until a busy worker has a result or is gone, or until time is up; which ones."""

    @abstractmethod
    def _take(self, slot: AnySlot) -> JobResult:
        """The result of a worker that `_wait` named.

        Raises:
            WorkerLost: it is gone.
        """

    @abstractmethod
    def _stop(self, slot: AnySlot) -> None:
        """Kill a worker, whatever it does."""

    def _hand_out(self) -> None:
        for slot in list(self._slots):
            if not self._queue:
                return
            if slot.job is None:
                self._assign(slot, self._queue.popleft())

    def _assign(self, slot: AnySlot, job: Job) -> None:
        try:
            self._give(slot, job)
        except WorkerLost:
            slot = self._replace(slot)
            self._give(slot, job)
        slot.job, slot.since = job, time.monotonic()

    def _receive(self, slot: AnySlot) -> JobResult:
        job = slot.job
        assert job is not None
        try:
            result = self._take(slot)
        except WorkerLost as error:
            self._replace(slot)
            return JobResult(job.id, "lost", "worker_died", str(error))
        slot.job, slot.fresh = None, False
        return result

    def _kill(self, slot: AnySlot) -> JobResult:
        job = slot.job
        assert job is not None
        self._replace(slot)
        return JobResult(job.id, "lost", "deadline", f"no result within {job.deadline:g} s")

    def _replace(self, slot: AnySlot) -> AnySlot:
        self._stop(slot)
        fresh = self._slots[self._slots.index(slot)] = self._start()
        return fresh
