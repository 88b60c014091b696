"""Workers of local pools that cost no interpreter, and which they are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import socket
from collections.abc import Iterator
from multiprocessing import connection, forkserver, process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from evomerge.run.pool import processes
from tests.tiny_runs import forked


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Local workers are forks of this process, for tests of what does not depend on how a worker starts.

    A fork has everything imported; torch and transformers take a started interpreter 8 seconds.
    """
    strangers.update(worker.pid for worker in multiprocessing.active_children())
    with mock.patch.object(processes, "START_METHOD", "fork"):
        yield


@contextlib.contextmanager
def served_workers() -> Iterator[None]:
    """Local workers are forks of a process that has imported all they need, and done nothing else.

    For workers that work out gradients: torch refuses to in the fork of a process that did.
    """
    strangers.update(worker.pid for worker in multiprocessing.active_children())
    with mock.patch.object(processes, "START_METHOD", "forkserver"):
        yield


def script_in_a_fork(file: Path) -> int:
    """Exit code of a script in a fork of this process, whose local workers have seen nothing of it."""

    def run() -> None:
        server: Any = forkserver
        with (
            served_workers(),
            mock.patch.object(server._forkserver, "ensure_running"),  # it is no child of this process
            mock.patch.object(process, "ORIGINAL_DIR", str(file.parent)),  # where an interpreter began
        ):
            os.chdir(file.parent)
            runpy.run_path(str(file), run_name="__main__")

    return forked(run)


def start_server() -> None:
    """Fork the process that `served_workers` are forks of, before this one works out a gradient.

    multiprocessing would start an interpreter, and that one import torch and transformers anew.
    """
    resource_tracker.ensure_running()
    server: Any = forkserver
    address = connection.arbitrary_address("AF_UNIX")
    alive, held = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.close(held)
                server.main(listener.detach(), alive, preload=[])
            os._exit(0)
    os.close(alive)
    found = server._forkserver
    found._forkserver_address, found._forkserver_alive_fd, found._forkserver_pid = address, held, child


strangers: set[int | None] = set()
"""Children of this process that other tests have left, or still use."""


def local_workers() -> list[BaseProcess]:
    """The workers that this process has now, those apart that were there before `forked_workers`."""
    found = [each for each in multiprocessing.active_children() if each.pid not in strangers]
    return sorted(found, key=lambda worker: worker.pid or 0)
