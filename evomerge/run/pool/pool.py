"""Pools: where jobs run. One seam, three places: this process, local processes, Ray.

Only `ray_actors` knows Ray. A pool keeps its workers alive: one that dies or passes its deadline is
replaced, and its job comes back as `lost`; whether to try again is the driver's decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from evomerge.run.job import Job, JobResult


class Runner(Protocol):
    """What a pool keeps in each of its places: made of a `WorkerSetup`, runs jobs one after the other."""

    def run(self, job: Job) -> JobResult:
        """Do a job; faults come back as results."""
        ...


@dataclass(frozen=True)
class WorkerState:
    """What one worker does, as its pool knows it.

    Attributes:
        place: its number in the pool, from 0; whoever replaces it has the same.
        state: `busy`, `idle`, or `waiting` for a machine with room for it.
        node: name of the machine; "" where it is not known yet.
        pid: of its process there; 0 likewise.
        job: id of what it runs; None where it runs nothing, or another campaign's job.
        seconds: how long it has been at that.
        busy: share of its life in which it had a job; None before it has lived.
    """

    place: int
    state: Literal["busy", "idle", "waiting"]
    node: str = ""
    pid: int = 0
    job: str | None = None
    seconds: float = 0.0
    busy: float | None = None


class Pool(Protocol):
    """Workers behind a queue.

    `submit` never blocks; jobs start in the order they were submitted. `next` returns the next
    finished job, in order of arrival, or None if `timeout` seconds pass (or nothing is under way); with 0
    seconds one of those that were seen to lie ready beside the last.
    """

    @property
    def size(self) -> int:
        """How many jobs run side by side."""
        ...

    @property
    def waiting(self) -> int:
        """How many of its workers have no machine to run on now; their jobs wait."""
        ...

    @property
    def ahead(self) -> int:
        """How many jobs beyond `size` it has use for, so that no worker waits for its next one."""
        ...

    def workers(self) -> tuple[WorkerState, ...]:
        """What each worker does now."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job."""
        ...

    def next(self, timeout: float) -> JobResult | None:
        """Wait for a finished job."""
        ...

    def close(self) -> None:
        """Stop all workers at once; queued jobs are dropped."""
        ...
