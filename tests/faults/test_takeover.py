"""A driver that is stopped and taken over wakes up; clocks of the wall jump: F10, F34."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from unittest import mock

from evomerge.errors import Stopped
from evomerge.ledger import lock
from tests.faults.bed import (
    RUN,
    SCHEDULES,
    finish,
    judge,
    ledger_of,
    report,
    session,
    stop_after,
    write_toy_campaign,
)
from tests.faults.harness import Tally, Trial, row
from tests.faults.test_driver_stopped import ended, results_in, start
from tests.faults.toy import write_plan

SHORT = mock.patch.multiple(lock, LEASE=0.5, BEAT=0.1)


@row("F10", "a stopped driver is taken over and wakes up", quick=2, t1=5, t2=50)
def test_f10_a_stopped_driver_is_taken_over(trial: Trial) -> Tally:
    """The old one wakes up while the new one takes over, or later; it writes nothing and exits with 6."""
    rng, schedule = trial.rng, trial.index % 2
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule], seconds=0.3)
    signed = ledger_of(trial.folder).with_name("ledger.jsonl.lock")
    with SHORT:
        old = start(file)
        wanted = rng.randrange(3, 12)
        until(lambda: results_in(trial.folder) >= wanted, old)
        os.kill(old, signal.SIGSTOP)
        write_plan(trial.folder, report(), seconds=0.1)
        new = start(file, options=("--takeover",))
        until(lambda: holder(signed) == new, new)
        time.sleep(rng.choice((0.0, 0.05, 0.3)))
        os.kill(old, signal.SIGCONT)
        assert ended(old, 240.0) == 6
        assert ended(new, 240.0) == 0
    text = (trial.folder / "driver.txt").read_text()
    assert "another driver has taken this campaign over" in text
    assert not (trial.folder / RUN / "workers.json").exists()
    return judge(trial.folder, 1, schedule)


def until(happened: object, child: int) -> None:
    """Wait while a child runs."""
    end = time.monotonic() + 240.0
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before"
        time.sleep(0.005)


def holder(signed: Path) -> int | None:
    """The pid in a lock file."""
    try:
        found: int = json.loads(signed.read_bytes())["pid"]
    except (OSError, ValueError, KeyError):
        return None
    return found


@row("F34", "the wall clock jumps by a day", quick=2, t1=4, t2=20)
def test_f34_wall_clock_jumps(trial: Trial) -> Tally:
    """Back and forth within a session and between two: no order, deadline or lease depends on it."""
    rng, plain = trial.rng, time.time
    file = write_toy_campaign(trial.folder)

    def jumping() -> float:
        return plain() + rng.choice((-86400.0, 0.0, 86400.0))

    with mock.patch.object(time, "time", jumping):
        with contextlib.suppress(Stopped):
            session(file, stop_request=stop_after(rng.randrange(10, 30), Stopped))
        session(file)
    return finish(trial, file, 2)
