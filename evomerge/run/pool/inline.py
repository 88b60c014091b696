"""Jobs in the driver's own process, one after the other: for debugging and for tiny models.

Deadlines cannot be kept here, since nothing can stop the process's own code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.pool.pool import Runner
from evomerge.run.worker import Worker


class InlinePool:
    """A pool of one worker that runs when its result is asked for."""

    size = 1
    waiting = 0
    ahead = 0

    def __init__(self, setup: WorkerSetup, runner: Callable[[WorkerSetup], Runner] = Worker) -> None:
        self._setup, self._runner = setup, runner
        self._worker = runner(setup)
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def next(self, timeout: float) -> JobResult | None:
        """Run the oldest queued job; None if there is none. `timeout` cannot be kept."""
        if not self._queue:
            return None
        result = self._worker.run(self._queue.popleft())
        if result.status == "lost":  # it ran out of memory: what it still holds must go
            self._worker = self._runner(self._setup)
        return result

    def close(self) -> None:
        """Drop what is queued."""
        self._queue.clear()
