"""How busy a pool keeps its workers with short jobs, with and without the next one lying ready.

    python -m benchmarks.pools

Jobs sleep, so that only the way to the driver and back counts. The driver does what it does in a campaign: it
takes a result, appends it to a ledger on disk (fsynced), hands out the next job. Both ways alternate in one
run; medians.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.ledger.records import RecordFile
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.pool.processes import ProcessPool
from evomerge.run.pool.ray_actors import RayPool
from tests.run.pool.toy_runner import SETUP

RECIPE = {"coefficients": "0.125 " * 400}
SCORES = {"event": "evaluated", "metrics": "0.125 " * 100}
WORK = ((0.001, 200), (0.01, 100), (0.1, 20))
"""Seconds of a job, and how many of them."""


class Sleeper:
    """Does nothing for as long as a job's id says."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.setup = setup

    def run(self, job: Job) -> JobResult:
        """Sleep."""
        time.sleep(float(job.id.split()[0]))
        return JobResult(job.id, "ok")


def busy(
    pool: Any, ledger: RecordFile, ids: Iterator[int], work: float, jobs: int, ahead: bool
) -> float:
    """Share of the workers' time in which they work."""
    left, running = jobs, 0
    began = time.perf_counter()
    for _ in range(jobs):
        while left and running < pool.size + (pool.ahead if ahead and left > pool.size else 0):
            pool.submit(Job(f"{work} {next(ids)}", "evaluate", recipe=RECIPE))
            left, running = left - 1, running + 1
        result = pool.next(60.0)
        assert result is not None
        running -= 1
        ledger.append({**SCORES, "id": result.id})
    return jobs * work / (pool.size * (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    ids = itertools.count()
    print("| pool | workers | ms a job | busy, one at a time | busy, next one ready |")
    print("| --- | --- | --- | --- | --- |")
    with (
        tempfile.TemporaryDirectory() as folder,
        RecordFile.open(Path(folder) / "l", create=True) as ledger,
    ):
        for kind, count in itertools.product((ProcessPool, RayPool), options.workers):
            pool = kind(SETUP, count, runner=Sleeper)
            busy(pool, ledger, ids, 0.01, 20 * count, False)
            for work, jobs in WORK:
                shares: dict[bool, list[float]] = {False: [], True: []}
                for _, ahead in itertools.product(range(options.repeats), (False, True)):
                    shares[ahead].append(busy(pool, ledger, ids, work, jobs * count, ahead))
                one, next_one = (statistics.median(shares[ahead]) for ahead in (False, True))
                name = "local" if kind is ProcessPool else "ray"
                print(
                    f"| {name} | {count} | {1000 * work:g} | {one:.3f} | {next_one:.3f} |", flush=True
                )
            pool.close()


if __name__ == "__main__":
    main()
