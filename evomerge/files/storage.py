"""Small file-system steps that durable files share: whole writes, folder fsync, faults in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from evomerge.errors import EnvironmentFault, Problem

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a write that a signal or a full disk cut short is gone on with.

    Raises:
        OSError: if the rest cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a new file's name is not, by an fsync of the file)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    """The fault for a failed write: E403 if there is no room, else E408; names the path."""
    full = error.errno in _FULL
    return EnvironmentFault(
        Problem(
            "E403" if full else "E408",
            "no room to write" if full else "cannot write",
            error.strerror or str(error),
            "free some space and run again" if full else "make it writable and run again",
            file=str(path),
        )
    )
