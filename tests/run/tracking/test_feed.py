"""Trackers that hang, break or fall behind: the campaign never waits, and a word is said once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import pytest

from evomerge.run.tracking.feed import Feed
from evomerge.run.tracking.record import About, Record

ABOUT = About("hand", "run-1", {})


class Listening:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def start(self, about: About) -> None:
        self.told.append(about.run)

    def log(self, record: Record) -> None:
        self.told.append(record.step)

    def finish(self, summary: Mapping[str, float]) -> None:
        self.told.append(dict(summary))


class Hanging(Listening):
    """One that does not come back from a call, until the test lets it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.inside, self.released = where, threading.Event(), threading.Event()

    def _hang(self, where: str) -> None:
        if where == self.where:
            self.inside.set()
            self.released.wait(60)

    def start(self, about: About) -> None:
        self._hang("start")

    def log(self, record: Record) -> None:
        self._hang("log")

    def finish(self, summary: Mapping[str, float]) -> None:
        self._hang("finish")


class Breaking(Listening):
    def log(self, record: Record) -> None:
        raise ConnectionError("no route to host\nmore")


def record(step: int) -> Record:
    return Record(step, float(step), {"hypervolume": 0.1})


def test_everything_arrives_in_order() -> None:
    tracker = Listening()
    feed = Feed("hand", lambda: tracker, ABOUT)
    for step in range(50):
        feed.put(record(step))
    feed.close({"front/members": 3.0}, grace=60.0)
    assert feed.dropped == ""
    assert tracker.told == ["run-1", *range(50), {"front/members": 3.0}]


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_one_that_hangs_is_dropped_at_the_end(where: str, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Hanging(where)
    feed = Feed("hand", lambda: tracker, ABOUT, folder="runs/a")
    feed.put(record(1))
    if where != "finish":
        assert tracker.inside.wait(60)
    with caplog.at_level(logging.WARNING):
        feed.close({}, grace=0.2)
    assert feed.dropped == "it was not done 0 s after the end"
    words = (
        "tracking with hand is given up: it was not done 0 s after the end; `evomerge sync runs/a hand`"
    )
    assert [text for text in caplog.messages if text.startswith(words)] == caplog.messages
    assert len(caplog.messages) == 1
    tracker.released.set()


def test_one_that_does_not_answer_is_dropped_while_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    tracker = Hanging("log")
    feed = Feed("hand", lambda: tracker, ABOUT, clock=lambda: now[0])
    feed.put(record(1))
    assert tracker.inside.wait(60)
    now[0] = 59.0
    feed.put(record(2))
    assert feed.dropped == ""
    now[0] = 61.0
    with caplog.at_level(logging.WARNING):
        feed.put(record(3))
        feed.put(record(4))
    assert feed.dropped == "it has not answered for 60 s"
    assert len(caplog.messages) == 1
    feed.close({}, grace=60.0)  # comes back at once
    tracker.released.set()


def test_one_that_falls_behind_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Hanging("log")
    feed = Feed("hand", lambda: tracker, ABOUT, most=3)
    feed.put(record(0))
    assert tracker.inside.wait(60)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 9):
            feed.put(record(step))
    assert feed.dropped == "it is 3 records behind"
    assert len(caplog.messages) == 1
    tracker.released.set()


def test_one_that_breaks_is_dropped_with_its_first_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        feed = Feed("hand", Breaking, ABOUT)
        feed.put(record(1))
        feed.close({}, grace=60.0)
    assert feed.dropped == "ConnectionError: no route to host"

    def missing() -> Listening:
        raise ImportError("no module")

    feed = Feed("hand", missing, ABOUT)
    feed.close({}, grace=60.0)
    assert feed.dropped == "ImportError: no module"
