"""Pools: where jobs run. One seam, three places: this process, local processes, Ray.

Only `ray_actors` knows Ray. A pool keeps its workers alive: one that dies or passes its deadline is
replaced, and its job comes back as `lost`; whether to try again is the driver's decision.
"""

from __future__ import annotations

from typing import Protocol

from evomerge.run.job import Job, JobResult


class Runner(Protocol):
    """What a pool keeps in each of its places: made of a `WorkerSetup`, runs jobs one after the other."""

    def run(self, job: Job) -> JobResult:
        """Do a job; faults come back as results."""
        ...


class Pool(Protocol):
    """Workers behind a queue.

    `submit` never blocks; jobs start in the order they were submitted. `next` returns the next
    finished job, in order of arrival, or None if `timeout` seconds pass (or nothing is under way).
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

    def submit(self, job: Job) -> None:
        """Queue a job."""
        ...

    def next(self, timeout: float) -> JobResult | None:
        """Wait for a finished job."""
        ...

    def close(self) -> None:
        """Stop all workers at once; queued jobs are dropped."""
        ...
