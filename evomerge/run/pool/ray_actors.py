"""Jobs on Ray actors, one model each; the only file that knows Ray."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import EnvironmentFault, Problem
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.pool.pool import Runner
from evomerge.run.pool.slots import Slot, SlotPool, WorkerLost
from evomerge.run.worker import Worker

log = logging.getLogger(__name__)

HEAD_SECONDS = 5.0
HEAD_TRIES = 3

_NODE_GONE = re.compile("node (has died|is dead)")

SLOW_STARTS = {"RAY_raylet_start_wait_time_s": "180", "RAY_worker_register_timeout_seconds": "600"}
"""Seconds. On a busy machine or a slow disk processes start slowly; Ray would restart them sooner."""

STARTS = 5
"""How often a local Ray is started: its node has thirty seconds to report itself, and no variable helps."""

NO_WORKERS_AHEAD = {"RAY_prestart_worker_first_driver": "0"}
"""Ray would start an idle interpreter for each processor; actors cannot use them."""


@dataclass(eq=False, kw_only=True)
class _Actor(Slot):
    handle: Any
    alive: Any
    futures: deque[Any] = field(default_factory=deque)


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
        self._before = _connect(address, count * setup.threads)
        self._head = _Head()
        self._slots = [self._start() for _ in range(count)]

    def close(self) -> None:
        """Kill the actors, and the Ray that was started for them; the environment is as before."""
        import ray

        self._queue.clear()
        if self._head.lost:
            return  # without a head, every call would wait for it in vain
        if ray.is_initialized():
            for actor in self._slots:
                self._stop(actor)
        self._slots = []
        if self._before is not None:
            ray.shutdown()
            _restore(self._before)
            self._before = None

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
        return _Actor(handle=handle, alive=handle.__ray_call__.remote(_where), ready=False)

    def _give(self, slot: _Actor, job: Job) -> None:
        # An actor runs its calls one after the other, in the order in which they were made.
        slot.futures.append(slot.handle.run.remote(job))

    def _wait(self, slots: Sequence[_Actor], seconds: float) -> list[_Actor]:
        import ray

        self._head.check()
        futures = [slot.futures[0] if slot.ready else slot.alive for slot in slots]
        if not ray.wait(futures, num_returns=1, timeout=seconds)[0]:
            return []
        ready = set(ray.wait(futures, num_returns=len(futures), timeout=0)[0])
        return [slot for slot, future in zip(slots, futures, strict=True) if future in ready]

    def _check_ready(self, slot: _Actor) -> None:
        import ray

        try:
            slot.node, slot.pid = ray.get(slot.alive, timeout=60)
        except ray.exceptions.RayError as error:
            raise WorkerLost(_first_line(error), _failure(error)) from error

    def _take(self, slot: _Actor) -> JobResult:
        import ray

        try:
            result: JobResult = ray.get(slot.futures[0], timeout=60)
        except ray.exceptions.RayError as error:
            raise WorkerLost(_first_line(error), _failure(error)) from error
        slot.futures.popleft()
        return result

    def _stop(self, slot: _Actor) -> None:
        import ray

        # Cancelling does not stop a running actor call; killing does.
        ray.kill(slot.handle)


def _where(runner: Runner) -> tuple[str, int]:
    """Host name and process id of an actor: its first call, which returns when it is ready."""
    return socket.gethostname(), os.getpid()


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


def _variables() -> dict[str, str]:
    """What the environment says to Ray."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}


def _read_again() -> None:
    """Have Ray's library read its settings and the token anew: a token is read once for the process.

    Otherwise processes that are started later, which read the environment, would refuse this one.
    """
    raylet: Any = importlib.import_module("ray._raylet")
    # Not Ray's public interface: in a version without it the cached token stays, until the process ends.
    with contextlib.suppress(AttributeError):
        raylet.Config.initialize("")  # first: no thread may look for a token that is gone
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _restore(before: dict[str, str]) -> None:
    """Make the variables what they were; no Ray of this process may run."""
    for name in _variables().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    _read_again()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray's own ends a driver at once, with exit code 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _connect(address: str | None, cpus: int) -> dict[str, str] | None:
    """Join or start Ray, with room for `cpus`.

    Returns:
        The variables to restore after this process ended it, or None if Ray was there before: then
        its settings and token are not ours to change.

    Raises:
        EnvironmentFault: E404, if the address does not answer or refuses.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return None
    before = _variables()
    # Loopback only (the badly named variable makes Ray bind 127.0.0.1), no usage statistics. All of
    # them before the import, which reads some.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        _use_token()
        for name, value in (SLOW_STARTS | NO_WORKERS_AHEAD).items():
            os.environ.setdefault(name, value)
    import ray

    try:
        _read_again()  # it may have been imported long ago
        with _own_sigterm():
            if address is not None:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                _start_local(max(cpus, os.cpu_count() or 1))
    except Exception as error:  # Ray raises a bare one where a node takes too long to start
        _restore(before)
        where = address or "a local Ray"
        raise EnvironmentFault(
            Problem(
                "E404", f"cannot reach or start {where}", str(error).splitlines()[0], field="workers"
            )
        ) from error
    if address is not None:
        _warn_without_token(address)
    return before


def _start_local(cpus: int) -> None:
    """Start a Ray of this machine; one whose node is too slow to report itself is ended, and another started.

    Raises:
        Exception: what Ray raises where it cannot start, or was too slow `STARTS` times.
    """
    import ray

    for left in reversed(range(STARTS)):
        others = _children()
        try:
            # "local": never join a cluster that an environment variable or an earlier start names.
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises a bare one where a node takes too long to start
            if not left or "timed out during startup" not in str(error):
                raise
            log.warning("Ray's node did not report itself in time; starting it again")
            for child in _children() - others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def _children() -> set[int]:
    """The processes that this one started, where the system lists them (Linux)."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, listed.read_text().split()))
    return found
