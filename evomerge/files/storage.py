"""File-system steps that durable files share: whole writes, synced files and folders, faults in words."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
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


def sync_file(path: Path) -> None:
    """Make what a file holds durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a new file's name is not, by an fsync of the file)."""
    sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Make every file and name below `folder` durable, and the names in the folder itself."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(place) / name)
        sync_folder(Path(place))


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, with durable names.

    Raises:
        OSError: if one cannot be made, or `folder` is a file.
    """
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    # Even if the folder exists: its maker may have died before its name was durable. What may not be read
    # cannot be synced.
    with contextlib.suppress(PermissionError):
        sync_folder(folder.parent)


def publish_file(made: Path, path: Path) -> None:
    """Give a whole file its name, in place of another if need be; after a power loss it is not empty either.

    Raises:
        OSError: if it cannot be renamed or synced.
    """
    sync_file(made)
    os.replace(made, path)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Have a file hold `data`: whoever reads it meanwhile sees all of the old content or all of the new.

    Args:
        path: the file; need not exist.
        data: what it is to hold.
        durable: whether it must outlive a power loss; without, nothing waits for the disk.

    Raises:
        OSError: if it cannot be written; what was there is as it was.
    """
    made = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        made.write_bytes(data)
        if durable:
            publish_file(made, path)
        else:
            os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A hidden name to write a file under, which gets `path`'s once the block ends; folders are made.

    If the block raises, what was at `path` is as it was, and nothing is left beside it.

    Raises:
        EnvironmentFault: as `cannot_write`, for an `OSError` within as well.
    """
    made = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield made
            publish_file(made, path)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of room."""
    return error.errno in _FULL


def cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    """The fault for a failed write: E403 if there is no room, else E408; names the path."""
    full = is_full(error)
    return EnvironmentFault(
        Problem(
            "E403" if full else "E408",
            "no room to write" if full else "cannot write",
            error.strerror or str(error),
            "free some space and run again" if full else "make it writable and run again",
            file=str(path),
        )
    )
