"""A worker without models, so that campaigns can be hurt by the hundred: same seam, same ledger, same pools.

Scores are drawn from the recipe's digest: as deterministic as a real evaluator's. What it does wrong on
the way is written in `plan.json` beside the campaign folder.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evomerge.ledger.events import PreparedEvent
from evomerge.objectives.scores import mean_metric
from evomerge.recipe.json_form import recipe_from_json
from evomerge.run.job import Job, JobResult, Measured, WorkerSetup

PLAN = "plan.json"
EXECUTED = "executed.txt"
METRICS = ("pets.acc", "birds.acc")
ITEMS = {"search": 24, "selection": 16, "test": 16}


def write_plan(
    folder: Path,
    report: PreparedEvent,
    *,
    seconds: float = 0.0,
    faults: Mapping[str, str] | None = None,
) -> None:
    """Say what the toy workers of the campaign folders in `folder` do.

    Args:
        folder: where the campaign folders lie.
        report: what `prepare` finds.
        seconds: how long an evaluation takes.
        faults: candidate to `FAULT` (each time it is evaluated) or `FAULT once`.
    """
    plan = {"report": report.to_json(), "seconds": seconds, "faults": dict(faults or {})}
    (folder / PLAN).write_text(json.dumps(plan))


def executions(folder: Path) -> list[tuple[str, str, int]]:
    """(id, split, pid) of every evaluation that a worker began, in order."""
    path = folder / EXECUTED
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, split, int(pid)) for name, split, pid in map(str.split, lines)]


class ToyWorker:
    """Runs jobs as its plan says."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.folder = Path(setup.cache).parent.parent
        self.plan = json.loads((self.folder / PLAN).read_text())

    def run(self, job: Job) -> JobResult:
        """Scores drawn from the recipe, or the fault that stands against the candidate's id."""
        if job.kind == "prepare":
            return JobResult(job.id, "ok", prepared=PreparedEvent.from_json(self.plan["report"]))
        with (self.folder / EXECUTED).open("a") as log:
            log.write(f"{job.id} {job.split} {os.getpid()}\n")
        assert job.recipe is not None
        fault = self._fault(job.id)
        if fault:
            broken = commit(fault, job)
            if broken is not None:
                return broken
        time.sleep(self.plan["seconds"])
        digest = recipe_from_json(dict(job.recipe)).digest
        items = {metric: drawn(digest, metric, job.split) for metric in METRICS}
        metrics = {metric: mean_metric(values) for metric, values in items.items()}
        return JobResult(
            job.id,
            "ok",
            measured=Measured(metrics),
            items=items,
            seconds={"evaluate": self.plan["seconds"]},
        )

    def _fault(self, name: str) -> str:
        fault, _, times = self.plan["faults"].get(name, "").partition(" ")
        if times == "once":
            marker = self.folder / f"{name}.done"
            if marker.exists():
                return ""
            marker.touch()
        return str(fault)


def drawn(digest: str, metric: str, split: str) -> np.ndarray:
    """Right and wrong answers of a recipe: float64 [items], 0 or 1; good at one is bad at the other."""
    place = hashlib.sha256(digest.encode()).digest()[0] / 255
    skill = 0.1 + 0.8 * (place if metric == METRICS[0] else 1 - place)
    chance = np.random.default_rng([*hashlib.sha256(f"{digest} {metric} {split}".encode()).digest()])
    return (chance.random(ITEMS[split]) < skill).astype(np.float64)


def commit(fault: str, job: Job) -> JobResult | None:
    """Do what is wrong. Comes back (with None) only where the fault is a matter of what follows."""
    verb, _, value = fault.partition(":")
    if verb == "die":
        os.kill(os.getpid(), int(value))
    elif verb == "segfault":
        faulthandler.disable()  # pytest's would write to the terminal
        ctypes.string_at(0)
    elif verb == "exit":
        os._exit(5)
    elif verb == "leave":
        sys.exit(3)
    elif verb == "raise":
        raise RuntimeError("a runner that breaks its promise")
    elif verb == "unpicklable":
        return JobResult(job.id, "ok", measured=Measured(lambda: None))  # type: ignore[arg-type]
    elif verb == "memory":
        return JobResult(job.id, "lost", "out_of_memory", "OutOfMemoryError: simulated")
    elif verb == "hog":
        try:
            _hog()
        except MemoryError as error:
            return JobResult(job.id, "lost", "out_of_memory", f"MemoryError: {error}")
    elif verb == "fail":
        return JobResult(job.id, "failed", value, "simulated")
    elif verb == "sleep":
        time.sleep(600)
    elif verb == "stubborn":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)
    elif verb == "hold":
        # A C call that keeps the interpreter's lock, so that no other thread of the process runs.
        ctypes.PyDLL(None).sleep(600)
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verb == "print":
        _print(int(value))
    else:
        raise ValueError(fault)
    return None


def _hog() -> None:
    """Take memory until the host gives no more, which comes soon in this process."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, resource.getrlimit(resource.RLIMIT_AS)[1]))
    kept = []
    while True:
        kept.append(bytearray(2**22))


def _print(megabytes: int) -> None:
    line = b"x" * 127 + b"\n"
    for _ in range(megabytes * 8):
        os.write(2, line * 1024)
