"""Jobs in the driver's own process, one after the other: for debugging and for tiny models.

Deadlines cannot be kept here, since nothing can stop the process's own code.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.pool.pool import Runner, WorkerState
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
        self._began, self._busy = time.monotonic(), 0.0

    def workers(self) -> tuple[WorkerState, ...]:
        """This process: busy with what it will run next, since nobody looks while it does."""
        job = self._queue[0].id if self._queue else None
        lived = time.monotonic() - self._began
        share = self._busy / lived if lived > 0.0 else None
        where = socket.gethostname(), os.getpid()
        return (WorkerState(0, "idle" if job is None else "busy", *where, job, 0.0, share),)

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    def next(self, timeout: float) -> JobResult | None:
        """Run the oldest queued job; None if there is none. `timeout` cannot be kept."""
        if not self._queue:
            return None
        began = time.monotonic()
        result = self._worker.run(self._queue.popleft())
        self._busy += time.monotonic() - began
        if result.status == "lost":  # it ran out of memory: what it still holds must go
            self._worker = self._runner(self._setup)
        return result

    def close(self) -> None:
        """Drop what is queued."""
        self._queue.clear()
