"""Metrics of a run: Prometheus text on the loopback address, gone with the run."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from evomerge.errors import EnvironmentFault
from evomerge.ledger.history import History
from evomerge.run.metrics import CONTENT_TYPE, Metered
from evomerge.run.progress import Display, Displays, Progress
from tests.cli.terminal import call
from tests.faults.bed import session, write_toy_campaign
from tests.faults.sessions import toys

SAMPLE = re.compile(r'(evomerge_\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)+)\} (-?[0-9.e+-]+|nan|inf)')


class Scraped(Display):
    """A display that reads the page as a run goes on."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.port = 0

    def __call__(self, history: History, progress: Progress) -> None:
        if history.campaign:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as page:
                assert page.headers["Content-Type"] == CONTENT_TYPE
                self.pages.append(page.read().decode())


def test_a_run_is_seen_as_prometheus_text(tmp_path: Path) -> None:
    shown = Scraped()
    metered = Metered(0)
    shown.port = metered.port
    file = write_toy_campaign(tmp_path, faults={"c00003": "fail:simulated"})
    with Displays([metered, shown]) as displays:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{metered.port}/", timeout=30)
        session(file, observer=displays)
    lines = shown.pages[-1].splitlines()
    samples = [SAMPLE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(samples), lines
    values = {found[1] + (found[2].partition(",")[2] and "," + found[2].partition(",")[2]): float(found[3])
              for found in samples if found}  # fmt: skip
    assert values["evomerge_evaluations"] == values["evomerge_budget_evaluations"] == 18
    assert values['evomerge_phase,phase="done"'] == 1
    assert values["evomerge_running"] == 0
    assert values["evomerge_hypervolume"] > 0
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == {
        found[1] for found in samples if found
    }
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", metered.port), 5)


def test_the_command_says_where(tmp_path: Path) -> None:
    with toys():
        ran = call("run", write_toy_campaign(tmp_path), "--dir", tmp_path / "run", "--metrics-port", 0)
    assert ran.code == 0
    assert re.search(r"metrics: http://127.0.0.1:\d+/metrics", ran.err)


def test_a_port_that_is_taken_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EnvironmentFault, match=r"E414\]: cannot listen on port \d+ of 127.0.0.1"),
    ):
        Metered(taken.getsockname()[1])
