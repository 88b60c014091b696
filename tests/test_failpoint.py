"""Failpoints do nothing unless the environment arms them, and then fire at the right hit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import timeit

import pytest

from evomerge.failpoint import EXIT_CODE, armed, failpoint, parse

SCRIPT = """
from evomerge.failpoint import failpoint
for number in range(5):
    failpoint("a.b")
    print(number, flush=True)
"""


def run(failpoints):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "EVOMERGE_FAILPOINTS": failpoints},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("failpoints", "code", "reached"),
    [
        ("", 0, 5),
        ("a.c=kill", 0, 5),
        ("a.b=kill", -signal.SIGKILL, 0),
        ("a.b=kill@3", -signal.SIGKILL, 2),
        ("a.b=stop@3", -signal.SIGTERM, 2),
        ("a.c=raise, a.b=exit@5", EXIT_CODE, 4),
        ("a.b=raise@2", 1, 1),
        ("a.b=kill@6", 0, 5),
    ],
)
def test_actions(failpoints, code, reached):
    done = run(failpoints)
    assert done.returncode == code
    assert len(done.stdout.split()) == reached


def test_a_fired_failpoint_is_spent(monkeypatch):
    monkeypatch.setattr("evomerge.failpoint._armed", parse("x=raise@2"))
    failpoint("x")
    assert armed("x")
    with pytest.raises(RuntimeError, match="failpoint x"):
        failpoint("x")
    failpoint("x")
    assert not armed("x")


@pytest.mark.parametrize("text", ["x", "x=leave", "x=kill@0", "x=kill@two", "=kill"])
def test_wrong_settings_are_refused(text):
    with pytest.raises(ValueError, match=r"is not NAME=ACTION\[@N\]"):
        parse(text)


def test_unarmed_calls_cost_next_to_nothing(capsys):
    seconds = min(timeit.repeat(lambda: failpoint("ledger.after_fsync"), number=100_000, repeat=3))
    with capsys.disabled():
        print(f"\nfailpoint: {seconds * 1e4:.0f} ns a call, unarmed (lambda included)")
