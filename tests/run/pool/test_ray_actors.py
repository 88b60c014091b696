"""The Ray pool on one small local Ray: the same promises as the process pool."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.campaign.file import WorkersSection
from evomerge.errors import EnvironmentFault
from evomerge.run.job import Job, JobResult
from evomerge.run.pool import ray_actors, slots
from evomerge.run.pool.open import open_pool
from evomerge.run.pool.pool import Pool
from evomerge.run.pool.ray_actors import RayPool
from tests.run.pool.toy_runner import SETUP, ToyRunner, answer_of, check_slopes
from tests.tiny_ray import local_ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> None:
    local_ray()


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    """One worker for all tests that leave it, or the one that took its place, with nothing to do."""
    pool = RayPool(SETUP, 1, runner=ToyRunner)
    yield pool
    pool.close()


def job(name: str, deadline: float | None = None) -> Job:
    return Job(name, "evaluate", deadline=deadline)


def take(pool: Pool, timeout: float = 200.0) -> JobResult:
    result = pool.next(timeout)
    assert result is not None, f"no result within {timeout} s"
    return result


def test_slopes_cross_the_pool(pool: RayPool) -> None:
    check_slopes(pool, 60.0)


def test_jobs_start_in_order_and_go_to_whoever_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "SHORT", 0.0)  # short ones would lie ready at either
    pool = RayPool(SETUP, 2, runner=ToyRunner)
    try:
        assert pool.size == 2
        pids: set[int] = set()
        for number in itertools.count():  # until both have started, which may take one of them long
            for place in range(2):
                pool.submit(job(f"sleep:0.2#{number}.{place}"))
            pids |= {answer_of(take(pool))["pid"] for _ in range(2)}
            if len(pids) == 2:
                break
        assert os.getpid() not in pids
        long = f"until:{tmp_path / 'go on'}"
        for name in (long, "add:3", "add:4"):
            pool.submit(job(name))
        assert [take(pool).id for _ in range(2)] == ["add:3", "add:4"]
        (tmp_path / "go on").touch()
        assert take(pool).id == long
        assert pool.next(0.1) is None
    finally:
        pool.close()


@pytest.mark.parametrize("name", [f"die:{signal.SIGKILL.value}", "raise"])
def test_a_death_loses_one_job_and_no_more(pool: RayPool, name: str) -> None:
    pool.submit(job(name))
    pool.submit(job("add:2"))
    lost, after = take(pool), take(pool)
    assert (lost.id, lost.status, lost.failure) == (name, "lost", "worker_died")
    assert (after.status, answer_of(after)["count"]) == ("ok", 1)


def test_a_job_past_its_deadline_is_killed(pool: RayPool) -> None:
    """The first job of a worker has a grace of minutes, since it waits for imports."""
    if not pool._slots[0].fresh:
        pool.submit(job("raise"))
        assert take(pool).status == "lost"
    assert pool._slots[0].fresh
    pool.submit(job("add:1", deadline=0.5))
    assert take(pool).status == "ok"
    pool.submit(job("sleep:600", deadline=0.5))
    pool.submit(job("add:2"))
    lost = take(pool)
    assert (lost.status, lost.failure, lost.message) == ("lost", "deadline", "no result within 0.5 s")
    assert take(pool).status == "ok"


@pytest.mark.parametrize(
    ("gpus", "asked", "placed"),
    [
        (0.5, 5, {"0": 2, "1": 2}),
        (1.0, 3, {"0": 1, "1": 1}),
        (2.0, 2, {"0,1": 1}),
    ],
)
def test_workers_share_have_or_span_devices(gpus: float, asked: int, placed: dict[str, int]) -> None:
    """Two devices: who is asked for beyond them waits, whoever has a place works."""
    pool = RayPool(SETUP, asked, gpus=gpus, runner=ToyRunner)
    try:
        devices: dict[int, str] = {}
        end = time.monotonic() + 200
        for number in itertools.count():
            for place in range(asked):  # as many at once as may be needed to see every worker
                pool.submit(job(f"sleep:0.2#{number}.{place}"))
            for _ in range(asked):
                data = answer_of(take(pool))
                devices[data["pid"]] = ",".join(sorted(data["devices"].split(",")))
            if Counter(devices.values()) == placed:
                break
            assert time.monotonic() < end, devices
        assert pool.waiting == asked - sum(placed.values()) > 0
    finally:
        pool.close()


def test_a_ray_that_was_there_before_stays() -> None:
    import ray

    pool = open_pool(WorkersSection(pool="ray", count=1), SETUP)
    assert isinstance(pool, RayPool)
    pool.close()
    pool.close()
    assert ray.is_initialized()


def test_an_address_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody there\nmore words")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        EnvironmentFault, match=r"E404\] workers: cannot reach or start 10.0.0.9.*nobody"
    ):
        RayPool(SETUP, 1, address="10.0.0.9:6379")


def test_a_node_too_slow_to_report_itself_is_ended_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray gives a node thirty seconds; on a busy machine the next one may need less."""
    import ray

    nodes: list[subprocess.Popen[bytes]] = []

    def start(**options: object) -> None:
        assert options["address"] == "local"
        nodes.append(subprocess.Popen(["sleep", "600"]))
        if len(nodes) < 3:
            raise Exception("The current node timed out during startup. This could happen")

    monkeypatch.setattr(ray, "init", start)
    try:
        ray_actors._start_local(1)
        assert [node.wait(60) for node in nodes[:2]] == [-signal.SIGKILL] * 2
        assert len(nodes) == 3
        assert nodes[2].poll() is None
    finally:
        for node in nodes:
            node.kill()
            node.wait(60)


def test_a_node_that_never_reports_itself_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    tries: list[object] = []

    def start(**options: object) -> None:
        tries.append(options)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(Exception, match="timed out during startup"):
        ray_actors._start_local(1)
    assert len(tries) == ray_actors.STARTS


SETTINGS = """
import contextlib
import os
import signal

from evomerge.run.pool.ray_actors import RayPool
from tests.run.pool.toy_runner import SETUP, ToyRunner, answer_of
from tests.tiny_ray import lean_ray


def handle(number, frame):
    pass


signal.signal(signal.SIGTERM, handle)
before = dict(os.environ)
tokens = set()
for around in (contextlib.nullcontext, lean_ray):  # the first one as it is
    with around():
        pool = RayPool(SETUP, 1, runner=ToyRunner)
    tokens.add(os.environ["RAY_AUTH_TOKEN"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert signal.getsignal(signal.SIGTERM) is handle
    pool.close()
    added = {name for name in os.environ if name.startswith("RAY_")} - before.keys()
    assert not added, added
assert len(tokens) == 2
"""


@pytest.mark.timeout(600)
def test_a_ray_of_its_own_leaves_no_settings_behind() -> None:
    """Twice in one process: the second one has its own token, and its processes agree on it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS],
        env={**plain, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
