"""A runner without models: it does what the job's id says, so that pools can be tested in a second.

`add:3` answers 3; `sleep:2`, `die:9` (a signal), `exit:5`, `leave` (SystemExit), `memory`, `raise`,
`unpicklable`, `print`, `stop` (SIGSTOP), `pid`, `lock` (as tqdm makes one).
What follows a `#` only tells ids apart.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from evomerge.run.job import Job, JobResult, Measured, WorkerSetup

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
        return JobResult(job.id, "ok", message=json.dumps(answer))


def answer_of(result: JobResult) -> dict[str, Any]:
    """What the job found: `value`, `pid` of its worker, `count` of that worker's jobs, its `devices`."""
    return dict(json.loads(result.message))
