"""Jobs on Ray actors, one model each; the only file that knows Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import EnvironmentFault, Problem
from evomerge.job import Job, JobResult, WorkerSetup
from evomerge.pool import Runner
from evomerge.pool.slots import Slot, SlotPool, WorkerLost
from evomerge.worker import Worker

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class _Actor(Slot):
    handle: Any
    future: Any = None


class RayPool(SlotPool[_Actor]):
    """A pool of `count` actors. Starts a local Ray unless one runs here or an address is given."""

    def __init__(
        self,
        setup: WorkerSetup,
        count: int,
        address: str | None = None,
        gpus: float = 0.0,
        runner: Callable[[WorkerSetup], Runner] = Worker,
    ) -> None:
        super().__init__()
        self._setup, self._runner = setup, runner
        self._gpus = gpus
        self._started = _connect(address, count)
        self._slots = [self._start() for _ in range(count)]

    def close(self) -> None:
        """Kill the actors, and the Ray that was started for them."""
        import ray

        self._queue.clear()
        if not ray.is_initialized():
            return
        for actor in self._slots:
            self._stop(actor)
        self._slots = []
        if self._started:
            ray.shutdown()

    def _start(self) -> _Actor:
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
        return _Actor(handle=ray.remote(self._runner).options(**options).remote(self._setup))

    def _give(self, slot: _Actor, job: Job) -> None:
        slot.future = slot.handle.run.remote(job)

    def _wait(self, busy: Sequence[_Actor], seconds: float) -> list[_Actor]:
        import ray

        ready, _ = ray.wait([slot.future for slot in busy], num_returns=1, timeout=seconds)
        return [slot for slot in busy if slot.future in ready]

    def _take(self, slot: _Actor) -> JobResult:
        import ray

        try:
            result: JobResult = ray.get(slot.future, timeout=60)
        except ray.exceptions.RayError as error:
            log.warning("worker lost: %s", type(error).__name__)
            raise WorkerLost(type(error).__name__) from error
        slot.future = None
        return result

    def _stop(self, slot: _Actor) -> None:
        import ray

        # Cancelling does not stop a running actor call; killing does.
        ray.kill(slot.handle)


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
