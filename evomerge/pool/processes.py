"""Jobs in local processes, one model each.

Plain pipes and processes instead of an executor: one dead worker must cost one job, a job past its
deadline must be killed, and neither may take the pool down.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from evomerge.job import Job, JobResult, WorkerSetup
from evomerge.pool import Runner
from evomerge.worker import Worker

# The first job of a worker pays for imports and for loading the model, which no deadline of a
# candidate covers.
START_GRACE = 300.0
CLOSE_SECONDS = 3.0


@dataclass
class _Slot:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None
    since: float = 0.0
    fresh: bool = True

    def expires(self) -> float:
        """Monotonic time at which the running job is killed; infinity without a deadline."""
        if self.job is None or self.job.deadline is None:
            return float("inf")
        return self.since + self.job.deadline + (START_GRACE if self.fresh else 0.0)


class ProcessPool:
    """A pool of `count` spawned processes, each with a runner of its own (importable by name)."""

    def __init__(
        self, setup: WorkerSetup, count: int, runner: Callable[[WorkerSetup], Runner] = Worker
    ) -> None:
        self._setup, self._runner = setup, runner
        self._context = multiprocessing.get_context("spawn")
        self._queue: deque[Job] = deque()
        self._slots = [self._start() for _ in range(count)]

    @property
    def size(self) -> int:
        """Number of worker processes."""
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
            ready = wait([slot.pipe for slot in busy], max(0.0, nearest - now))
            for slot in busy:
                if slot.pipe in ready:
                    return self._receive(slot)
                if time.monotonic() >= slot.expires():
                    return self._kill(slot)

    def close(self) -> None:
        """End idle workers, kill the others; they hold nothing that must be saved."""
        self._queue.clear()
        idle = [slot for slot in self._slots if slot.job is None]
        for slot in idle:
            slot.pipe.close()  # a process that ends by itself gives its semaphores back
        end = time.monotonic() + CLOSE_SECONDS
        for slot in idle:
            slot.process.join(max(0.0, end - time.monotonic()))
        for slot in self._slots:
            self._stop(slot)
        self._slots = []

    def _start(self) -> _Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._setup, self._runner), daemon=True
        )
        with _thread_environment(self._setup.threads):
            process.start()
        theirs.close()
        return _Slot(process, ours)

    def _hand_out(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot.job is not None or not self._queue:
                continue
            job = self._queue.popleft()
            try:
                slot.pipe.send(job)
            except OSError:  # it died while idle; a fresh one gets the job
                self._stop(slot)
                slot = self._slots[index] = self._start()
                slot.pipe.send(job)
            slot.job, slot.since = job, time.monotonic()

    def _receive(self, slot: _Slot) -> JobResult:
        job = slot.job
        assert job is not None
        try:
            result: JobResult = slot.pipe.recv()
        except (EOFError, OSError):
            slot.process.join(5.0)
            code = slot.process.exitcode
            self._replace(slot)
            return JobResult(job.id, "lost", "worker_died", f"the worker ended with exit code {code}")
        slot.job, slot.fresh = None, False
        return result

    def _kill(self, slot: _Slot) -> JobResult:
        job = slot.job
        assert job is not None
        self._replace(slot)
        return JobResult(job.id, "lost", "deadline", f"no result within {job.deadline:g} s")

    def _replace(self, slot: _Slot) -> None:
        self._stop(slot)
        self._slots[self._slots.index(slot)] = self._start()

    @staticmethod
    def _stop(slot: _Slot) -> None:
        slot.process.kill()
        slot.process.join(10.0)
        slot.pipe.close()


def _serve(pipe: Connection, setup: WorkerSetup, runner: Callable[[WorkerSetup], Runner]) -> None:
    """A worker process: run jobs until the driver's end of the pipe closes."""
    # Ctrl-C in a terminal reaches the whole group; stopping is the driver's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_driver, daemon=True).start()
    # What libraries print must not get between the lines of a table or of JSON.
    sys.stdout.flush()
    os.dup2(2, 1)
    worker = runner(setup)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(worker.run(job))


def _leave_with_the_driver() -> None:
    """End this process when the driver is gone, also in the middle of a job."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _thread_environment(threads: int) -> Any:
    """Thread counts that native libraries read once, when the child imports them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
