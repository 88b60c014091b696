"""A runner without models: it does what the job's id says, so that pools can be tested in a second.

`add:3` answers 3; `sleep:2`, `until:/a/file` (waits for it), `die:9` (a signal), `exit:5`, `leave`
(SystemExit), `memory`, `raise`, `unpicklable`, `print`, `stop` (SIGSTOP), `pid`, `lock` (as tqdm makes one).
What follows a `#` only tells ids apart. A slope job is answered with its weights as losses and a third of its
items as gradient.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from evomerge.run.job import Job, JobResult, Measured, MeasuredSlope, SlopeWork, WorkerSetup
from evomerge.run.pool.pool import Pool

SETUP = WorkerSetup(
    sources={},
    evaluators=(),
    methods=(),
    trims=(),
    dtype="float32",
    storage="bfloat16",
    device="cpu",
    threads=1,
    batch_size=1,
    cache="",
)


class ToyRunner:
    """Runs jobs by name; keeps count of them."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.setup = setup
        self.count = 0

    def run(self, job: Job) -> JobResult:
        """Do what the id says."""
        self.count += 1
        verb, _, value = job.id.partition("#")[0].partition(":")
        if verb == "sleep":
            time.sleep(float(value))
        elif verb == "until":
            while not os.path.exists(value):
                time.sleep(0.01)
        elif verb == "die":
            os.kill(os.getpid(), int(value))
        elif verb == "exit":
            os._exit(int(value))
        elif verb == "leave":
            sys.exit(3)
        elif verb == "memory":
            raise MemoryError("too much")
        elif verb == "raise":
            raise RuntimeError("a runner that breaks its promise")
        elif verb == "unpicklable":
            return JobResult(job.id, "ok", measured=Measured({}, lambda: None))  # type: ignore[arg-type]
        elif verb == "lock":
            self.lock = multiprocessing.RLock()
        elif verb == "print":
            print("noise")
            os.write(1, b"more noise\n")
        elif verb == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        answer = {"value": value, "pid": os.getpid(), "count": self.count, "devices": devices}
        slope = None
        if job.slope is not None:
            slope = MeasuredSlope(job.slope.weights, np.array(list(job.slope.items.values())) / 3.0)
        return JobResult(job.id, "ok", message=json.dumps(answer), slope=slope)


def answer_of(result: JobResult) -> dict[str, Any]:
    """What the job found: `value`, `pid` of its worker, `count` of that worker's jobs, its `devices`."""
    return dict(json.loads(result.message))


def check_slopes(pool: Pool, timeout: float) -> None:
    """What a slope job asks and finds crosses a pool as it is."""
    work = SlopeWork({"a.acc": 0.25, "b.acc": 1e-300}, {"a.acc": (1, 2), "b.acc": (0, 7)})
    pool.submit(Job("add:1", "slope", slope=work))
    result = pool.next(timeout)
    assert result is not None
    assert result.slope is not None
    assert result.slope.losses == work.weights
    assert result.slope.gradient.dtype == np.float64
    assert np.array_equal(result.slope.gradient, np.array([[1, 2], [0, 7]]) / 3.0)
