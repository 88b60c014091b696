"""Ray for real: drivers and nodes killed while workers are busy: F3, F13, F14."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from evomerge.run.pool.ray_actors import NO_WORKERS_AHEAD, SLOW_STARTS
from tests.cli.terminal import call
from tests.faults.bed import RUN, evaluated_ids, finish, judge, write_toy_campaign
from tests.faults.harness import Tally, Trial, row
from tests.faults.test_driver_stopped import results_in
from tests.faults.toy import executions
from tests.tiny_ray import lean_ray
from tests.tiny_runs import events_of

REPOSITORY = Path(__file__).parents[2]
SAID = "said.txt"
PATIENCE = 240.0
"""Seconds for what takes ten on a quiet machine."""

VARIABLES = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    **SLOW_STARTS,
    **NO_WORKERS_AHEAD,
    "RAY_gcs_rpc_server_reconnect_timeout_s": "60",
}
"""The environment of drivers and clusters."""

HEADLESS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
"""For how long a cluster's processes look for a head that is gone; drivers do so for a minute."""


def drive(file: Path, variables: Mapping[str, str] = VARIABLES) -> subprocess.Popen[bytes]:
    """`evomerge run` with toy workers in a process of its own; its words go to `said.txt`."""
    environment = {**os.environ, **variables}
    words = [sys.executable, "-m", "tests.faults.sessions", "run", str(file), "--dir"]
    with (file.parent / SAID).open("ab") as said:
        return subprocess.Popen(
            [*words, str(file.parent / RUN)], cwd=REPOSITORY, env=environment, stdout=said, stderr=said
        )


def until(happened: Callable[[], bool], driver: subprocess.Popen[bytes], file: Path) -> None:
    """Wait while a driver runs.

    Raises:
        AssertionError: if it ended before, or if it takes too long.
    """
    end = time.monotonic() + PATIENCE
    while not happened():
        text = (file.parent / SAID).read_text(errors="replace")[-2000:]
        assert driver.poll() is None, f"it ended with {driver.returncode}: {text}"
        assert time.monotonic() < end, text
        time.sleep(0.05)


@row("F3", "SIGKILL of the driver while Ray's workers are busy", quick=1, t1=10, t2=100)
def test_f03_driver_killed_with_ray_workers_busy(trial: Trial) -> Tally:
    """No process of its Ray stays behind, and nothing is lost."""
    workers = {"workers": {"pool": "ray", "count": 2}}
    file = write_toy_campaign(trial.folder, workers, seconds=1.0)
    driver = drive(file, VARIABLES | HEADLESS)
    try:
        until(lambda: results_in(trial.folder) >= trial.rng.randrange(7, 14), driver, file)
        family = psutil.Process(driver.pid).children(recursive=True)
        assert any("raylet" in name_of(process) for process in family)
        assert sum("ToyWorker" in name_of(process) for process in family) >= 2
    finally:
        driver.kill()
        driver.wait(10)
    # Ray's agents try for a while to tell a head that is gone what became of their node.
    end = time.monotonic() + PATIENCE
    while alive := [name_of(process) for process in family if runs(process)]:
        assert time.monotonic() < end, alive
        time.sleep(0.2)
    write_toy_campaign(trial.folder)
    return finish(trial, file, 1)


def name_of(process: psutil.Process) -> str:
    """What a process calls itself."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


def runs(process: psutil.Process) -> bool:
    """Whether it is alive; what nobody has waited for is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def patiently(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's question for a node, asked until there is an answer: Ray itself gives up after thirty seconds."""

    def ask(*arguments: Any) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return ask


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster on this machine: a head without processors, and nodes with one each."""
    with mock.patch.dict(os.environ, VARIABLES | HEADLESS):
        from ray._private import services
        from ray.cluster_utils import Cluster

        others = set(psutil.Process().children(recursive=True))
        head = {"num_cpus": 0, "include_dashboard": False}
        stack = contextlib.ExitStack()
        stack.enter_context(lean_ray())
        stack.enter_context(mock.patch.object(services, "get_node", patiently(services.get_node)))
        try:
            made = Cluster(initialize_head=True, head_node_args=head)
            stack.callback(made.shutdown)
            yield made, [made.add_node(num_cpus=1) for _ in range(nodes)]
        finally:
            with contextlib.suppress(Exception):
                stack.close()
            # Not the Ray of other tests.
            for process in set(psutil.Process().children(recursive=True)) - others:
                if any(part in name_of(process) for part in ("raylet", "gcs_server", "ray::")):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()


@row(
    "F13",
    "Ray nodes that come and go under load; then none is left, and one comes",
    quick=6,
    t1=6,
    t2=30,
)
def test_f13_nodes_come_and_go(trial: Trial) -> Tally:
    """Each of three nodes goes without a word while another comes; then all go.

    The run says that it waits, and goes on with a new one. Two candidates run until their nodes are gone, so
    that the search is not over before, on any machine; `status` says what was lost, and nothing else is done
    twice.
    """
    with cluster(3) as (made, nodes):
        workers = {"workers": {"pool": "ray", "count": 3, "address": made.address}}
        first, *_, last = evaluated_ids()
        faults = {first: "sleep once", last: "sleep once"}
        file = write_toy_campaign(trial.folder, workers, seconds=0.1, faults=faults)
        driver = drive(file)
        try:
            until(lambda: first in begun(trial.folder), driver, file)
            for _ in range(3):
                made.remove_node(nodes.pop(0), allow_graceful=False)
                nodes.append(made.add_node(num_cpus=1))
            until(lambda: last in begun(trial.folder), driver, file)
            for node in nodes:
                made.remove_node(node, allow_graceful=False)
            until(lambda: "waiting for capacity" in (trial.folder / SAID).read_text(), driver, file)
            made.add_node(num_cpus=1)
            assert driver.wait(PATIENCE) == 0, (trial.folder / SAID).read_text()[-3000:]
        finally:
            driver.kill()
            driver.wait(10)
    events = events_of(trial.folder / RUN)
    lost = [event for event in events if event["event"] == "lost"]
    told = call("status", trial.folder / RUN, "--json").json
    assert {first, last} <= {event["id"] for event in lost}
    assert told["lost"] == len(lost)
    assert told["lost_to"].keys() == {event["failure"] for event in lost}
    needed = sum(event["event"] == "evaluated" and "same_as" not in event for event in events)
    assert needed + 2 <= len(begun(trial.folder)) <= needed + len(lost)
    return judge(trial.folder, 6)


def begun(folder: Path) -> list[str]:
    """Candidates whose evaluation began, as often as it did."""
    return [name for name, *_ in executions(folder)]


@row("F14", "the head node killed", quick=1, t1=1, t2=10)
def test_f14_head_node_killed(trial: Trial) -> Tally:
    """Exit 5 within two minutes; the campaign goes on on another cluster."""
    with cluster(2) as (made, _):
        workers = {"workers": {"pool": "ray", "count": 2, "address": made.address}}
        file = write_toy_campaign(trial.folder, workers, seconds=2.0)
        driver = drive(file)
        try:
            # What is left takes twice as long as it takes to miss the head.
            until(lambda: results_in(trial.folder) >= 2, driver, file)
            made.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
            code = driver.wait(PATIENCE)
        finally:
            driver.kill()
            driver.wait(10)
        assert code == 5, (code, (trial.folder / SAID).read_text()[-3000:])
        assert "E404" in (trial.folder / SAID).read_text()
    with cluster(1) as (made, _):
        write_toy_campaign(
            trial.folder, {"workers": {"pool": "ray", "count": 1, "address": made.address}}
        )
        driver = drive(file)
        try:
            assert driver.wait(PATIENCE) == 0, (trial.folder / SAID).read_text()[-3000:]
        finally:
            driver.kill()
            driver.wait(10)
    return judge(trial.folder, 1)
