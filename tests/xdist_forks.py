"""The processes of pytest-xdist as forks of the one that leads them, which has imported all they need.

Started anew, each of them would import torch, transformers, lm-eval and every test by itself: 19 s of
processor time. xdist talks to its processes through a pair of pipes that execnet makes with `subprocess`;
here it gets the ends of pipes to forks that wait. What takes the place of one that died is started as ever.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.clean_process import leave_a_fork

HEAVY = ("tests.tiny_runs", "hypothesis.strategies")
"""What nearly all tests import."""


def fork_processes(count: int, root: Path, tests: Iterable[Path]) -> None:
    """Import what the tests need and have as many forks wait for xdist's orders.

    To be called while this process has no second thread.
    """
    from execnet import gateway_io

    leave_a_fork()
    for module in (*HEAVY, *(".".join(file.relative_to(root).with_suffix("").parts) for file in tests)):
        # What cannot be imported is told of by the process that collects it; warnings are errors there too.
        with warnings.catch_warnings(), contextlib.suppress(Exception, pytest.skip.Exception):
            warnings.simplefilter("error")
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it
    waiting: list[Any] = []
    for _ in range(count):
        waiting.append(_forked(waiting))
    start = gateway_io.create_io

    def create_io(spec: Any, execmodel: Any) -> Any:
        if not waiting or not spec.popen or spec.python or spec.chdir:
            return start(spec, execmodel)
        io = waiting.pop(0)
        io.execmodel = execmodel
        return io

    gateway_io.create_io = create_io


def _forked(others: list[Any]) -> Any:
    """A fork that waits for its first line, as the ends of the pipes to it."""
    from execnet.gateway_base import Popen2IO, get_execmodel

    class Fork(Popen2IO):  # type: ignore[misc]
        def wait(self) -> int | None:
            with contextlib.suppress(ChildProcessError):
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return None

        def kill(self) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    said, say = os.pipe()
    hear, told = os.pipe()
    child = os.fork()
    if child == 0:
        for end in (said, told, *(e.fileno() for io in others for e in (io.infile, io.outfile))):
            os.close(end)
        _work(hear, say)
    os.close(say)
    os.close(hear)
    return Fork(os.fdopen(told, "wb"), os.fdopen(said, "rb"), get_execmodel("main_thread_only"))


def _work(hear: int, say: int) -> NoReturn:
    """Do what `python -u -c 'import sys; exec(eval(sys.stdin.readline()))'` does, which execnet starts."""
    code = 1
    try:
        os.dup2(hear, 0)
        os.dup2(say, 1)
        os.close(hear)
        os.close(say)
        # execnet puts others in their place, and the descriptors must stay open.
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.argv = ["-c"]
        # Processes that tests start with `spawn` would look for the main module in this one's file.
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(eval(sys.stdin.readline()), main.__dict__)
        code = 0
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    os._exit(code)
