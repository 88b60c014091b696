"""What a running driver's workers do, in a file of the campaign folder for whoever wants to look.

The file is replaced every few seconds and never synced: it says what goes on, not what happened. It is gone
when the run ends; one that a killed driver left is known by its age and by its driver's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from evomerge.files.storage import replace_file
from evomerge.run.job import Job, JobResult
from evomerge.run.pool.pool import Pool, WorkerState

WORKERS_FILE = "workers.json"

EVERY = 2.0
"""Seconds between two states of the file."""

STALE = 60.0
"""Seconds after which what the file says may be past: a driver looks more often unless it works itself."""


@dataclass(frozen=True)
class Crew:
    """The workers of a driver (`host`, `pid`) at a moment (`time`, wall-clock seconds)."""

    host: str
    pid: int
    time: float
    workers: tuple[WorkerState, ...]


class ShownPool:
    """A pool whose workers are told of in `WORKERS_FILE`."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self._pool, self._file = pool, directory / WORKERS_FILE
        self._due = 0.0

    @property
    def size(self) -> int:
        """As the pool."""
        return self._pool.size

    @property
    def waiting(self) -> int:
        """As the pool."""
        return self._pool.waiting

    @property
    def ahead(self) -> int:
        """As the pool."""
        return self._pool.ahead

    def workers(self) -> tuple[WorkerState, ...]:
        """As the pool."""
        return self._pool.workers()

    def submit(self, job: Job) -> None:
        """As the pool."""
        self._pool.submit(job)

    def next(self, timeout: float) -> JobResult | None:
        """As the pool."""
        if time.monotonic() >= self._due:
            self._show()
        return self._pool.next(timeout)

    def close(self) -> None:
        """Close the pool; nothing is told any more."""
        told = read_crew(self._file.parent)
        if told is not None and (told.host, told.pid) == (socket.gethostname(), os.getpid()):
            with contextlib.suppress(OSError):
                self._file.unlink()
        self._pool.close()

    def _show(self) -> None:
        self._due = time.monotonic() + EVERY
        crew = Crew(socket.gethostname(), os.getpid(), time.time(), self._pool.workers())
        # A disk that is full or gone stops the run where a result is to be recorded, not here.
        with contextlib.suppress(OSError):
            replace_file(self._file, json.dumps(asdict(crew)).encode(), durable=False)


def read_crew(directory: Path) -> Crew | None:
    """What the workers of a campaign folder did when they were last told of; None if nobody told."""
    try:
        data = json.loads((directory / WORKERS_FILE).read_bytes())
        workers = tuple(WorkerState(**each) for each in data["workers"])
        return Crew(str(data["host"]), int(data["pid"]), float(data["time"]), workers)
    except (OSError, ValueError, KeyError, TypeError):
        return None
