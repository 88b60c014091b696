"""Jobs in local processes, one model each.

Plain pipes and processes instead of an executor: one dead worker must cost one job, a job past its
deadline must be killed, and neither may take the pool down.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.pool.pool import Runner
from evomerge.run.pool.slots import Slot, SlotPool, WorkerLost
from evomerge.run.worker import Worker

START_METHOD = "spawn"
"""How Python starts a worker. A fork would copy locks and open files of the driver as they are just then."""

CLOSE_SECONDS = 3.0

MOST_AHEAD = 65_536
"""Bytes of a job that may wait in a worker's pipe; one of 1,000 genes has about 40,000."""

MOST_NOISE = 1_000_000
"""Bytes of a worker's own output that are passed on to stderr; the rest is dropped."""


@dataclass(eq=False, kw_only=True)
class _Place(Slot):
    process: BaseProcess
    pipe: Connection
    noise: threading.Thread


class ProcessPool(SlotPool[_Place]):
    """A pool of `count` processes, each with a runner of its own (importable by name)."""

    def __init__(
        self, setup: WorkerSetup, count: int, runner: Callable[[WorkerSetup], Runner] = Worker
    ) -> None:
        super().__init__()
        self._setup, self._runner = setup, runner
        self._context: Any = multiprocessing.get_context(START_METHOD)
        self._slots = [self._start() for _ in range(count)]

    def close(self) -> None:
        """End idle workers, kill the others; they hold nothing that must be saved."""
        self._queue.clear()
        idle = [slot for slot in self._slots if not slot.jobs]
        for slot in idle:
            slot.pipe.close()  # a process that ends by itself gives its semaphores back
        end = time.monotonic() + CLOSE_SECONDS
        for slot in idle:
            slot.process.join(max(0.0, end - time.monotonic()))
        for slot in self._slots:
            self._stop(slot)
        self._slots = []

    def _start(self) -> _Place:
        ours, theirs = self._context.Pipe()
        _widen(ours)
        heard, said = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_serve, args=(theirs, said, self._setup, self._runner), daemon=True
        )
        with _thread_environment(self._setup.threads), _without_main():
            process.start()
        theirs.close()
        said.close()
        noise = threading.Thread(target=_pass_on, args=(heard,), daemon=True)
        noise.start()
        node, pid = socket.gethostname(), process.pid or 0
        return _Place(process=process, pipe=ours, noise=noise, node=node, pid=pid)

    def _give(self, slot: _Place, job: Job) -> None:
        try:
            slot.pipe.send(job)
        except OSError as error:
            raise WorkerLost(str(error)) from error

    def _fits_ahead(self, job: Job) -> bool:
        # A worker does not read while it runs a job: what the pipe does not hold would make the driver wait.
        return len(ForkingPickler.dumps(job)) <= MOST_AHEAD

    def _wait(self, slots: Sequence[_Place], seconds: float) -> list[_Place]:
        ready = wait([slot.pipe for slot in slots], seconds)
        return [slot for slot in slots if slot.pipe in ready]

    def _take(self, slot: _Place) -> JobResult:
        try:
            result: JobResult = slot.pipe.recv()
        except (EOFError, OSError):
            slot.process.join(5.0)
            raise WorkerLost(f"the worker ended with exit code {slot.process.exitcode}") from None
        return result

    def _stop(self, slot: _Place) -> None:
        slot.process.kill()
        slot.process.join(10.0)
        slot.noise.join(1.0)  # what it said last
        slot.pipe.close()


def _widen(pipe: Connection) -> None:
    """Have a pipe hold a job that nobody reads yet, whatever the system's own size is."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MOST_AHEAD)


def _pass_on(heard: Connection) -> None:
    """Copy what a worker prints to this process's stderr, up to a limit, until the worker ends.

    A worker must neither fill a disk nor wait for a reader.
    """
    left = MOST_NOISE
    with heard:
        while data := os.read(heard.fileno(), 65536):
            if left <= 0:
                continue
            try:
                os.write(2, data[:left])
                left -= len(data)
                if left <= 0:
                    os.write(2, b"\n[more output of this worker is dropped]\n")
            except OSError:  # nobody hears us either; the worker must be able to go on
                left = 0


def _serve(
    pipe: Connection, said: Connection, setup: WorkerSetup, runner: Callable[[WorkerSetup], Runner]
) -> None:
    """A worker process: run jobs until the driver's end of the pipe closes."""
    # Ctrl-C in a terminal reaches the whole group; stopping is the driver's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker may be killed at any moment. Semaphores that libraries make (tqdm's, for one) have names that
    # outlive it, which Python reports as leaked; with this start method the name goes when it is made.
    multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_leave_with_the_driver, daemon=True).start()
    # What libraries print must not get between the lines of a table or of JSON.
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    said.close()
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
def _without_main() -> Iterator[None]:
    """No main module, as far as a process that starts now can see.

    A spawned process runs the main module again, which in a script without `if __name__ == "__main__":`
    would start the campaign once more in every worker. A worker needs nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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
