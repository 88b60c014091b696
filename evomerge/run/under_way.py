"""Jobs under way: handed to a pool and waited for, while a stop is heeded and displays are told."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.errors import EnvironmentFault, Problem
from evomerge.run.job import Job, JobResult, error_of
from evomerge.run.pool.pool import Pool
from evomerge.run.safeguards import (
    INFRASTRUCTURE,
    MOST_REQUEUED,
    CapacityWatch,
    Clock,
    back_off_seconds,
)

POLL = 0.25
"""Seconds between looks at signals and limits while jobs run."""


class UnderWay:
    """The jobs that a pool has.

    Attributes:
        ids: of these jobs.
    """

    def __init__(
        self, pool: Pool, clock: Clock, heed_stop: Callable[[], None], notify: Callable[[], None]
    ) -> None:
        """`heed_stop` raises where a stop is asked for; `notify` shows where things stand."""
        self.ids: set[str] = set()
        self._pool, self._clock = pool, clock
        self._heed_stop, self._notify = heed_stop, notify
        self._capacity = CapacityWatch()

    def __len__(self) -> int:
        return len(self.ids)

    def submit(self, job: Job) -> None:
        """Hand a job to the pool."""
        self._pool.submit(job)
        self.ids.add(job.id)

    def wait(self, most: float = POLL) -> JobResult | None:
        """The next result; None after a while of `most` seconds or less, or if nothing is under way."""
        self._heed_stop()
        seconds = min(POLL, most)
        if not self.ids:  # all that is open backs off
            self._clock.sleep(seconds)
            self._notify()
            return None
        result = self._pool.next(seconds)
        if result is None:
            self._capacity.look(self._pool.waiting, self._pool.size)
            self._notify()
        else:
            self.ids.discard(result.id)
        return result

    def arrived(self, most: float) -> list[JobResult]:
        """As `wait`, with the results that lie ready beside the next one; none after a while."""
        result = self.wait(most)
        found = []
        while result is not None:
            found.append(result)
            result = self._pool.next(0.0) if self.ids else None
            if result is not None:
                self.ids.discard(result.id)
        return found

    def pause(self, seconds: float) -> None:
        """Do nothing for a while, except to stop when that is asked for."""
        end = self._clock.now() + seconds
        while (left := end - self._clock.now()) > 0:
            self._heed_stop()
            self._clock.sleep(min(POLL, left))
            self._notify()

    def run_once(self, job: Job) -> JobResult:
        """Run one job by itself and return its result, trying again if its worker is lost.

        Raises:
            EnvironmentFault: if it fails, or loses its worker again and again.
            EvomergeError: the fault a worker reports.
        """
        for requeued in range(1, MOST_REQUEUED + 2):
            self.submit(job)
            while (result := self.wait()) is None:
                pass
            if result.status == "ok":
                return result
            if result.status == "fault":
                raise error_of(result)
            found = f"{result.failure}: {result.message}"
            if result.status == "failed":
                break
            if result.failure in INFRASTRUCTURE and requeued <= MOST_REQUEUED:
                self.pause(back_off_seconds(requeued))
        raise EnvironmentFault(Problem("E405", f"the {job.kind} job failed", found))
