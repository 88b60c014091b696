"""What is made once for all processes of a test run."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = "EVOMERGE_TESTS_SHARED"
"""Environment variable with the folder that the processes of one run share; `conftest` makes it."""


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name`, filled by the first process that asks for it. Not to be changed.

    Others wait meanwhile. Where its maker died, the next one makes it anew in the same place.
    """
    root = os.environ.get(ROOT)
    folder = Path(root) / name if root else Path(tempfile.mkdtemp(prefix="evomerge-tests-")) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder.with_name(f"{name}.done")
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder
