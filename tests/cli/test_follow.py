from __future__ import annotations

import json
import os
import re
import shutil
import socket

import pytest

from evomerge.cli import follow
from evomerge.ledger.records import RecordFile
from tests.cli.terminal import call, in_terminal
from tests.tiny_runs import Finished, events_of, finished


@pytest.fixture
def campaign() -> Finished:
    return finished()


@pytest.fixture
def growing(campaign, tmp_path, monkeypatch):
    """A campaign whose driver writes a part of its ledger each time that somebody waits, then signs off."""
    directory = tmp_path / "run"
    directory.mkdir()
    os.symlink(campaign.directory / "items", directory / "items")
    events = events_of(campaign.directory)
    at = [
        next(i for i, e in enumerate(events) if e["event"] == kind) for kind in ("asked", "selection")
    ]
    parts = [events[: at[0]], events[at[0] : at[1]], events[at[1] :]]
    lock = directory / "ledger.jsonl.lock"

    def write(_: float = 0.0) -> None:
        if not parts:
            lock.write_text("")
            return
        with RecordFile.open(directory / "ledger.jsonl", create=True) as ledger:
            for event in parts.pop(0):
                ledger.append({k: v for k, v in event.items() if k not in ("n", "format")})
        signed = {"host": socket.gethostname(), "pid": os.getpid(), "since": "2026-01-01T00:00:00Z"}
        lock.write_text(json.dumps(signed))

    write()
    monkeypatch.setattr(follow.time, "sleep", write)
    return directory


def test_a_line_each_time_that_the_ledger_has_grown(growing):
    found = call("status", growing, "--follow")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("generation 0: 0 of 18 evaluations")
    assert lines[-1].startswith("done: 18 evaluations")


def test_one_object_a_line_with_json(growing):
    found = call("status", growing, "--follow", "--json")
    assert found.code == 0, found.err
    read = [json.loads(text) for text in found.out.splitlines()]
    assert [each["evaluations"] for each in read] == [0, 18, 18]
    assert read[-1]["phase"] == "done"
    assert read[0]["driver"]["pid"] == os.getpid()


def test_what_has_ended_is_shown_once(campaign, tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "EVERY", 0.0)
    shutil.copytree(campaign.directory, tmp_path / "other")
    found = call("status", campaign.directory, tmp_path / "other", "--follow")
    assert found.code == 0
    assert [text.split(": ")[1] for text in found.out.splitlines()] == ["done", "done"]
    code, text = in_terminal("status", campaign.directory, "--follow")
    assert code == 0
    assert re.search(r"phase +done", text)
    assert "E509" in call("status", tmp_path, "--follow").err
