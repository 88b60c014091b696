"""The process pool: order, deaths of every kind, deadlines, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evomerge.campaign.file import WorkersSection
from evomerge.run.job import Job, JobResult
from evomerge.run.pool import slots
from evomerge.run.pool.inline import InlinePool
from evomerge.run.pool.open import open_pool
from evomerge.run.pool.pool import Pool
from evomerge.run.pool.processes import ProcessPool
from tests.run.pool.toy_runner import SETUP, ToyRunner, answer_of, check_slopes

REPOSITORY = Path(__file__).parents[3]


def job(name: str, deadline: float | None = None) -> Job:
    return Job(name, "evaluate", deadline=deadline)


def take(pool: Pool, timeout: float = 30.0) -> JobResult:
    result = pool.next(timeout)
    assert result is not None, f"no result within {timeout} s"
    return result


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    pool = ProcessPool(SETUP, 1, ToyRunner)
    yield pool
    pool.close()


def test_jobs_start_in_order_and_arrive_as_they_finish(tmp_path: Path) -> None:
    pool = ProcessPool(SETUP, 2, ToyRunner)
    try:
        long = f"until:{tmp_path / 'go on'}"
        for name in (long, "add:1", "add:2", "add:3"):
            pool.submit(job(name))
        arrived = [take(pool) for _ in range(3)]
        (tmp_path / "go on").touch()
        arrived.append(take(pool))
        assert [result.id for result in arrived] == ["add:1", "add:2", "add:3", long]
        assert len({answer_of(result)["pid"] for result in arrived}) == 2 == pool.size
        assert pool.next(0.1) is None
        assert os.getpid() not in {answer_of(result)["pid"] for result in arrived}
    finally:
        pool.close()


def test_slopes_cross_the_pool(pool: ProcessPool) -> None:
    check_slopes(pool, 30.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"die:{signal.SIGSEGV.value}", "exit code -11"),
        ("exit:5", "exit code 5"),
        ("leave", "exit code 3"),
        ("unpicklable", "exit code 1"),
    ],
)
def test_a_death_of_any_kind_loses_one_job_and_no_more(
    pool: ProcessPool, name: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pool.submit(job("add:1"))
    first = answer_of(take(pool))["pid"]
    pool.submit(job(name))
    pool.submit(job("add:2"))
    lost, after = take(pool), take(pool)
    assert (lost.id, lost.status, lost.failure) == (name, "lost", "worker_died")
    assert message in lost.message
    assert (after.status, answer_of(after)["count"]) == ("ok", 1)
    assert answer_of(after)["pid"] != first
    capfd.readouterr()  # tracebacks of the workers, which go to stderr


@pytest.mark.parametrize("name", ["sleep:60", "stop"])
def test_a_job_past_its_deadline_is_killed(
    pool: ProcessPool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "START_GRACE", 30.0)
    pool.submit(job("add:1", deadline=0.5))  # the first job of a worker has the grace of its start
    first = take(pool)
    assert first.status == "ok"
    pool.submit(job(name, deadline=0.5))
    pool.submit(job("add:2", deadline=50.0))
    started = time.monotonic()
    lost = take(pool)
    assert time.monotonic() - started < 50, "killed, not waited for"
    assert (lost.id, lost.status, lost.failure) == (name, "lost", "deadline")
    assert lost.message == "no result within 0.5 s"
    after = take(pool)
    assert after.status == "ok"
    assert not psutil.pid_exists(answer_of(first)["pid"])


def test_a_worker_that_dies_while_idle_is_replaced(pool: ProcessPool) -> None:
    pool.submit(job("add:1"))
    first = answer_of(take(pool))["pid"]
    os.kill(first, signal.SIGKILL)
    psutil.Process(first).wait(5)
    pool.submit(job("add:2"))
    result = take(pool)
    if result.status == "lost":  # the death came between the look and the hand-out
        pool.submit(job("add:2"))
        result = take(pool)
    assert answer_of(result)["pid"] != first


def test_close_ends_workers_in_the_middle_of_a_job(pool: ProcessPool) -> None:
    pool.submit(job("add:1"))
    worker = answer_of(take(pool))["pid"]
    pool.submit(job("sleep:600"))
    pool.close()  # waited for, the job would outlast the test
    assert not psutil.pid_exists(worker)


def test_nothing_gets_on_the_drivers_stdout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pool = ProcessPool(SETUP, 1, ToyRunner)
    pool.submit(job("print"))
    assert take(pool).status == "ok"
    pool.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "more noise" in err


DRIVER = """
import sys, time
from evomerge.run.pool.processes import ProcessPool
from evomerge.run.job import Job
from tests.run.pool.toy_runner import SETUP, ToyRunner, answer_of
if __name__ == "__main__":
    pool = ProcessPool(SETUP, 2, ToyRunner)
    for name in ("add:1", "add:2", "sleep:60", "stop"):
        pool.submit(Job(name, "evaluate"))
    print(*(answer_of(pool.next(30))["pid"] for _ in range(2)), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_driver_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert driver.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.3)
    driver.kill()
    driver.wait(10)
    driver.stdout.close()
    end = time.monotonic() + 60
    while (alive := running(workers)) != (stopped := [w for w in alive if is_stopped(w)]):
        assert time.monotonic() < end, alive
        time.sleep(0.02)
    for worker in stopped:  # nothing but SIGKILL reaches a stopped process
        worker.kill()
    assert len(stopped) <= 1


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=0)[1]


def is_stopped(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


def test_the_inline_pool_runs_when_asked() -> None:
    pool = InlinePool(SETUP, ToyRunner)
    assert pool.next(0.1) is None
    for name in ("add:1", "add:2"):
        pool.submit(job(name))
    assert [answer_of(take(pool))["count"], answer_of(take(pool))["count"]] == [1, 2]
    pool.submit(job("add:3"))
    pool.close()
    assert pool.next(0.1) is None


def test_a_campaign_opens_the_pool_it_names() -> None:
    inline = open_pool(WorkersSection(pool="inline"), SETUP)
    assert isinstance(inline, InlinePool)
    local = open_pool(WorkersSection(pool="local", count=2), SETUP)
    local.close()
    assert isinstance(local, ProcessPool)


SCRIPT = """
import os, sys
from tests.run.pool.toy_runner import SETUP, ToyRunner
from evomerge.run.job import Job
from evomerge.run.pool.processes import ProcessPool
print("the script runs", flush=True)
pool = ProcessPool(SETUP, 2, ToyRunner)
for name in ("lock#1", "lock#2"):
    pool.submit(Job(name, "evaluate"))
assert {pool.next(60).status for _ in range(2)} == {"ok"}
for _ in range(2):
    pool.submit(Job("sleep:60", "evaluate"))
pool.close()
"""


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, folder / "script.py"],
        capture_output=True, text=True, timeout=120, env=environment, cwd=folder,
    )  # fmt: skip


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    """And workers that are killed at work leave no semaphores for Python to complain of."""
    done = run_script(tmp_path, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the script runs\n"
    assert done.stderr == ""
