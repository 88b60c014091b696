"""Python in a process that has transformers and nothing of ours: as who downloads an export has it.

An interpreter takes six seconds of processor time to import torch and transformers. Under pytest-xdist the
process that leads the others has imported them before anything else, and leaves a fork of itself here, which
forks again for each who asks; without one, an interpreter is started.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.shared import ROOT

LIBRARIES = ("torch", "transformers")
PACKAGE = "evomerge"


def printed_by(code: str, *words: str) -> str:
    """What code prints that finds `words` in `sys.argv[1:]`.

    Raises:
        AssertionError: with its stderr, if it fails.
    """
    address = os.path.join(os.environ.get(ROOT, ""), "clean")
    if ROOT in os.environ and os.path.exists(address):
        told = _asked(address, [code, *words])
    else:
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        told = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
    assert told["code"] == 0, told["err"]
    return str(told["out"])


def _asked(address: str, words: list[str]) -> Any:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendall(json.dumps(words).encode())
        server.shutdown(socket.SHUT_WR)
        with server.makefile("rb") as told:
            return json.loads(told.read())


def leave_a_fork() -> None:
    """Have a fork of this process, in which nothing of ours is imported, wait in the folder of the run.

    It goes when this process has gone.
    """
    if any(name.partition(".")[0] == PACKAGE for name in sys.modules):
        return  # by a conftest of the folder that was asked for
    for name in LIBRARIES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(os.environ[ROOT], "clean"))
    listener.listen()
    listener.settimeout(1.0)
    leader = os.getpid()
    if os.fork() == 0:
        try:
            while os.getppid() == leader:
                with contextlib.suppress(TimeoutError):
                    _serve(listener.accept()[0])
        finally:
            os._exit(0)
    listener.close()


def _serve(client: socket.socket) -> None:
    with client, tempfile.TemporaryDirectory() as folder:
        with client.makefile("rb") as asked:
            code, *words = json.loads(asked.read())
        files = [Path(folder) / name for name in ("out", "err")]
        child = os.fork()
        if child == 0:
            _become(code, words, files)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out, err = (file.read_text() if file.exists() else "" for file in files)
        client.sendall(json.dumps({"code": ended, "out": out, "err": err}).encode())


def _become(code: str, words: list[str], files: list[Path]) -> None:
    status = 1
    try:
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        sys.argv = ["-c", *words]
        exec(code, {"__name__": "__main__"})
        sys.stdout.flush()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
