"""What workers do, as others can read it while a run goes on; and when that is past."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.run.pool import shown
from evomerge.run.pool.shown import WORKERS_FILE, read_crew
from tests.cli.terminal import Forked, call
from tests.faults.bed import RUN, evaluated_ids, session, write_toy_campaign
from tests.faults.sessions import toys
from tests.faults.toy import executions
from tests.local_workers import forked_workers
from tests.tiny_runs import events_of


def test_status_tells_what_each_worker_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "EVERY", 0.05)
    file = write_toy_campaign(tmp_path, {"workers": {"pool": "local", "count": 2}}, seconds=0.3)
    directory = tmp_path / RUN
    with toys(), forked_workers():
        run = Forked(tmp_path / "out", "run", file, "--dir", directory)

    seen: dict[str, Any] = {}

    def works() -> bool:
        crew = read_crew(directory)
        if crew is None or any(each.state != "busy" for each in crew.workers):
            return False
        seen.update(call("status", directory, "--json").json)
        return [each["state"] for each in seen["workers"]] == ["busy"] * 2

    run.wait_until(lambda: len(executions(tmp_path)) >= 6 and works())
    lines = [line.split(maxsplit=1) for line in call("status", directory).out.splitlines()]
    (crew,) = [words[1] for words in lines if words[0] == "workers"]
    assert re.fullmatch(r"2: .*; busy \d+ % of their time", crew)
    assert [each["place"] for each in seen["workers"]] == [0, 1]
    assert not any(each["stale"] for each in seen["workers"])
    known = {name for name, _, _ in executions(tmp_path)}
    for each in seen["workers"]:
        assert (each["node"], each["state"]) == (socket.gethostname(), "busy")
        assert each["pid"] not in (0, run.pid)
        assert each["candidate"] in known
        assert 0.0 <= each["seconds"] < 30.0
        assert 0.0 < each["busy"] <= 1.0
    assert seen["workers_seconds_ago"] < 60
    run.signal(signal.SIGKILL)
    run.wait()
    left = call("status", directory, "--json").json
    assert [each["stale"] for each in left["workers"]] == [True, True]
    assert "(stale)" in call("status", directory).out
    write_toy_campaign(tmp_path)
    session(file)
    assert not (directory / WORKERS_FILE).exists()
    assert call("status", directory, "--json").json["workers"] == []


def test_a_silent_driver_is_stale(tmp_path: Path) -> None:
    file = write_toy_campaign(tmp_path)
    session(file)
    directory = tmp_path / RUN
    lock = directory / "ledger.jsonl.lock"
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": "2026-01-01T00:00:00Z"}
    lock.write_text(json.dumps(holder))
    worker = {"place": 0, "state": "idle"}
    crew = {"host": holder["host"], "pid": holder["pid"], "workers": [worker]}
    for age, stale in ((1.0, False), (1000.0, True)):
        (directory / WORKERS_FILE).write_text(json.dumps(crew | {"time": time.time() - age}))
        assert [w["stale"] for w in call("status", directory, "--json").json["workers"]] == [stale]
    (directory / WORKERS_FILE).write_text('{"workers": 3}')
    assert call("status", directory, "--json").json["workers"] == []


def test_what_was_lost_with_its_worker_is_told(tmp_path: Path) -> None:
    workers = {"workers": {"pool": "local", "count": 2}}
    faults = {evaluated_ids()[2]: "die:9 once"}
    file = write_toy_campaign(tmp_path, workers, seconds=0.05, faults=faults)
    with forked_workers():
        session(file)
    (lost,) = [event for event in events_of(tmp_path / RUN) if event["event"] == "lost"]
    assert 0.0 <= lost["seconds"] < 30.0
    data = call("status", tmp_path / RUN, "--json").json
    assert data["lost_to"] == {"worker_died": {"attempts": 1, "seconds": lost["seconds"]}}
    assert "1 with a worker that died (worker_died)" in call("status", tmp_path / RUN).out
