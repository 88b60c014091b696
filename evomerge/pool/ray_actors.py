"""Jobs on Ray actors, one model each; the only file that knows Ray."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evomerge.errors import EnvironmentFault, Problem
from evomerge.job import Job, JobResult, WorkerSetup
from evomerge.pool import Runner
from evomerge.worker import Worker

log = logging.getLogger(__name__)

START_GRACE = 300.0


@dataclass
class _Actor:
    handle: Any
    job: Job | None = None
    future: Any = None
    since: float = 0.0
    fresh: bool = True

    def expires(self) -> float:
        if self.job is None or self.job.deadline is None:
            return float("inf")
        return self.since + self.job.deadline + (START_GRACE if self.fresh else 0.0)


class RayPool:
    """A pool of `count` actors. Starts a local Ray unless one runs here or an address is given."""

    def __init__(
        self,
        setup: WorkerSetup,
        count: int,
        address: str | None = None,
        gpus: float = 0.0,
        runner: Callable[[WorkerSetup], Runner] = Worker,
    ) -> None:
        self._setup, self._runner = setup, runner
        self._gpus = gpus
        self._started = _connect(address, count)
        self._queue: deque[Job] = deque()
        self._actors = [_Actor(self._create()) for _ in range(count)]

    @property
    def size(self) -> int:
        """Number of actors."""
        return len(self._actors)

    def submit(self, job: Job) -> None:
        """Queue a job and hand it out if an actor is free."""
        self._queue.append(job)
        self._hand_out()

    def next(self, timeout: float) -> JobResult | None:
        """The next finished, failed or lost job; None after `timeout` seconds."""
        import ray

        end = time.monotonic() + timeout
        while True:
            self._hand_out()
            busy = [actor for actor in self._actors if actor.job is not None]
            now = time.monotonic()
            if not busy or now >= end:
                return None
            nearest = min(end, *(actor.expires() for actor in busy))
            ready, _ = ray.wait(
                [actor.future for actor in busy], num_returns=1, timeout=max(0.0, nearest - now)
            )
            for actor in busy:
                if actor.future in ready:
                    return self._receive(actor)
                if time.monotonic() >= actor.expires():
                    return self._kill(actor)

    def close(self) -> None:
        """Kill the actors, and the Ray that was started for them."""
        import ray

        self._queue.clear()
        if not ray.is_initialized():
            return
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors = []
        if self._started:
            ray.shutdown()

    def _create(self) -> Any:
        import ray

        threads = str(self._setup.threads)
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        options = {
            "num_cpus": self._setup.threads,
            "num_gpus": self._gpus,
            # Restarts and retries are the driver's decision: Ray would run a candidate that kills its
            # worker again and again.
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": variables},
        }
        return ray.remote(self._runner).options(**options).remote(self._setup)

    def _hand_out(self) -> None:
        for actor in self._actors:
            if actor.job is None and self._queue:
                actor.job = self._queue.popleft()
                actor.future = actor.handle.run.remote(actor.job)
                actor.since = time.monotonic()

    def _receive(self, actor: _Actor) -> JobResult:
        import ray

        job = actor.job
        assert job is not None
        try:
            result: JobResult = ray.get(actor.future, timeout=60)
        except ray.exceptions.RayError as error:
            log.warning("worker lost: %s", type(error).__name__)
            self._replace(actor)
            return JobResult(job.id, "lost", "worker_died", f"{type(error).__name__}")
        actor.job, actor.future, actor.fresh = None, None, False
        return result

    def _kill(self, actor: _Actor) -> JobResult:
        job = actor.job
        assert job is not None
        self._replace(actor)
        return JobResult(job.id, "lost", "deadline", f"no result within {job.deadline:g} s")

    def _replace(self, actor: _Actor) -> None:
        import ray

        # Cancelling does not stop a running actor call; killing does.
        ray.kill(actor.handle)
        self._actors[self._actors.index(actor)] = _Actor(self._create())


def _connect(address: str | None, count: int) -> bool:
    """Join or start Ray; True if this process started one that it must end.

    Raises:
        EnvironmentFault: E404, if the address does not answer or refuses.
    """
    # Loopback only (the badly named variable makes Ray bind 127.0.0.1), no usage statistics.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            cpus = max(count, os.cpu_count() or 1)
            # "local": never join a cluster that an environment variable or an earlier start names.
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "a local Ray"
        raise EnvironmentFault(
            Problem(
                "E404", f"cannot reach or start {where}", str(error).splitlines()[0], field="workers"
            )
        ) from error
    return True
