"""Jobs on Ray actors, one model each; the only file that knows Ray."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import EnvironmentFault, Problem
from evomerge.job import Job, JobResult, WorkerSetup
from evomerge.pool import Runner
from evomerge.pool.slots import Slot, SlotPool, WorkerLost
from evomerge.worker import Worker

log = logging.getLogger(__name__)

HEAD_SECONDS = 5.0
HEAD_TRIES = 3

_NODE_GONE = re.compile("node (has died|is dead)")

SLOW_STARTS = {"RAY_raylet_start_wait_time_s": "180", "RAY_worker_register_timeout_seconds": "600"}
"""A busy machine or a slow shared disk: Ray would end processes that take longer, and start them anew."""


@dataclass(eq=False, kw_only=True)
class _Actor(Slot):
    handle: Any
    alive: Any
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
        self._started = _connect(address, count * setup.threads)
        self._head = _Head()
        self._slots = [self._start() for _ in range(count)]

    def close(self) -> None:
        """Kill the actors, and the Ray that was started for them."""
        import ray

        self._queue.clear()
        if not ray.is_initialized() or self._head.lost:
            return  # without a head, every call would wait for it in vain
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
        handle: Any = ray.remote(self._runner).options(**options).remote(self._setup)
        return _Actor(handle=handle, alive=handle.__ray_ready__.remote(), ready=False)

    def _give(self, slot: _Actor, job: Job) -> None:
        slot.future = slot.handle.run.remote(job)

    def _wait(self, slots: Sequence[_Actor], seconds: float) -> list[_Actor]:
        import ray

        self._head.check()
        futures = [slot.future if slot.ready else slot.alive for slot in slots]
        ready, _ = ray.wait(futures, num_returns=1, timeout=seconds)
        return [slot for slot, future in zip(slots, futures, strict=True) if future in ready]

    def _check_ready(self, slot: _Actor) -> None:
        import ray

        try:
            ray.get(slot.alive, timeout=60)
        except ray.exceptions.RayError as error:
            raise WorkerLost(_first_line(error), _failure(error)) from error

    def _take(self, slot: _Actor) -> JobResult:
        import ray

        try:
            result: JobResult = ray.get(slot.future, timeout=60)
        except ray.exceptions.RayError as error:
            raise WorkerLost(_first_line(error), _failure(error)) from error
        slot.future = None
        return result

    def _stop(self, slot: _Actor) -> None:
        import ray

        # Cancelling does not stop a running actor call; killing does.
        ray.kill(slot.handle)


def _failure(error: Exception) -> str:
    """Class of a lost attempt: the machine went away, its memory ended, or the worker itself died."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "out_of_memory"
    unreachable = ray.exceptions.ActorUnavailableError, ray.exceptions.NodeDiedError
    if isinstance(error, unreachable) or _NODE_GONE.search(str(error)):
        return "node_lost"
    return "worker_died"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class _Head:
    """The head node, looked at now and then: Ray itself ends a driver whose head is gone for a minute."""

    def __init__(self) -> None:
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._checked = time.monotonic()
        self._missed = 0
        self.lost = False

    def check(self) -> None:
        """Try to reach it, at most every `HEAD_SECONDS`.

        Raises:
            EnvironmentFault: E404, if it could not be reached `HEAD_TRIES` times in a row.
        """
        if time.monotonic() - self._checked < HEAD_SECONDS:
            return
        try:
            socket.create_connection(self._address, 2.0).close()
            self._missed = 0
        except OSError as error:
            self._missed += 1
            if self._missed >= HEAD_TRIES:
                self.lost = True
                found = f"{self._address[0]}:{self._address[1]}: {error}"
                todo = "the campaign can be gone on with on another cluster"
                wrong = "the head node of the Ray cluster is gone"
                raise EnvironmentFault(Problem("E404", wrong, found, todo, field="workers")) from error
        self._checked = time.monotonic()


def _use_token() -> None:
    """Have the Ray that is started here refuse everybody who does not know a secret of this process."""
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        return
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _warn_without_token(address: str) -> None:
    """A cluster that took us without a token takes everybody."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        log.warning(
            "warning[E410] workers.address: the Ray cluster at %s asks for no token; whoever reaches its "
            "ports can run commands on it; start it with RAY_AUTH_MODE=token",
            address,
        )


def _connect(address: str | None, cpus: int) -> bool:
    """Join or start Ray, with room for `cpus`; True if this process started one that it must end.

    Raises:
        EnvironmentFault: E404, if the address does not answer or refuses.
    """
    # Loopback only (the badly named variable makes Ray bind 127.0.0.1), no usage statistics.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        _use_token()  # before the import, which reads it
        for name, seconds in SLOW_STARTS.items():
            os.environ.setdefault(name, seconds)
    import ray

    if ray.is_initialized():
        return False
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            _warn_without_token(address)
        else:
            cpus = max(cpus, os.cpu_count() or 1)
            # "local": never join a cluster that an environment variable or an earlier start names.
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises a bare one where a node takes too long to start
        where = address or "a local Ray"
        raise EnvironmentFault(
            Problem(
                "E404", f"cannot reach or start {where}", str(error).splitlines()[0], field="workers"
            )
        ) from error
    return True
