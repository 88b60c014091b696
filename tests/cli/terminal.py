"""Command lines in tests: in this process, in a fork that can be signalled, in a pseudo-terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.cli.app import main


@dataclass(frozen=True)
class Output:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.out)


def call(*words: object) -> Output:
    """A command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _known_to_runs(words):
        code = main([str(word) for word in words])
    return Output(code, out.getvalue(), err.getvalue())


def _known_to_runs(words: tuple[object, ...]) -> contextlib.AbstractContextManager[None]:
    """For `run`, what models have answered in this test run already; see `forward_passes_once`."""
    if words[:1] != ("run",):
        return contextlib.nullcontext()
    from tests.tiny_runs import forward_passes_once

    return forward_passes_once()


class Forked:
    """A command line in a forked child: everything is imported already, and signals are its own."""

    def __init__(self, folder: Path, *words: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.pid = _fork(self._become, words)

    def _become(self) -> None:
        for number, path in ((1, self.out), (2, self.err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        # Tests that a shell runs in the background inherit that Ctrl-C is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 240.0) -> None:
        """Wait for something to become true while the child runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.err.read_text()
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240.0) -> Output:
        """The output, once the child has ended."""
        code = _reap(self.pid, seconds)
        return Output(code, self.out.read_text(), self.err.read_text())


def in_terminal(*words: object, columns: int = 100) -> tuple[int, str]:
    """Exit code and everything a pseudo-terminal received."""
    read, write = pty.openpty()

    def become() -> None:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES="30")
        os.environ.pop("NO_COLOR", None)
        for number in (0, 1, 2):
            os.dup2(write, number)

    pid = _fork(become, words)
    os.close(write)
    received = b""
    # Reading fails with EIO when the last writer has closed its end.
    with contextlib.suppress(OSError):
        while chunk := os.read(read, 65536):
            received += chunk
    os.close(read)
    return _reap(pid, 240.0), received.decode()


def _fork(become: Callable[[], None], words: tuple[object, ...]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            become()
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            with _known_to_runs(words):
                code = main([str(word) for word in words])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return child


def _reap(pid: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the command did not end within {seconds} s")
