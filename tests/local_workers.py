"""Workers of local pools that cost no interpreter, and which they are."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from unittest import mock

from evomerge.run.pool import processes


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Local workers are forks of this process, for tests of what does not depend on how a worker starts.

    A fork has everything imported; torch and transformers take a started interpreter 8 seconds.
    """
    with mock.patch.object(processes, "START_METHOD", "fork"):
        yield


def local_workers() -> list[BaseProcess]:
    """The workers that this process has now, the oldest first."""
    return sorted(multiprocessing.active_children(), key=lambda worker: worker.pid or 0)
