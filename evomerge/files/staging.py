"""Folders that appear whole or not at all.

A folder is filled under a hidden name beside its target, every byte of it is synced to disk, and one
rename makes it visible. Over an existing folder the two are exchanged in one step where the file
system can do that (Linux `renameat2`), so that at every instant the target is wholly old or wholly new.
Where it cannot, the old folder is renamed aside first; if the process dies between the two renames, the
next start puts the old one back.

Names, for a target `NAME`: `.NAME.evomerge-tmp-*` is being filled or is waste, `.NAME.evomerge-old-*`
is a published folder on its way out. Whoever works on one holds a lock on it; what nobody holds was
left by a killed process and is cleared away at the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from evomerge.errors import EnvironmentFault, Problem, UsageError
from evomerge.failpoint import failpoint
from evomerge.files.storage import cannot_write, make_folder, sync_folder, sync_tree

OVERWRITE = "give `--overwrite`, or another folder"
"""What helps where a target exists, for verbs that have the option."""

logger = logging.getLogger(__name__)

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
_NOT_OFFERED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_MODEL_FILES = ("evomerge.json", "config.json")
_MARGIN = 16 * 2**20
"""Bytes beside the weights: tokenizer, index, card."""


@contextlib.contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new empty folder that becomes `target` when the block ends, or vanishes if the block raises.

    Args:
        target: the folder to publish; missing parents are made.
        overwrite: replace a model folder that is there; anything else is never replaced.

    Raises:
        UsageError: E601 the target exists (or came to exist meanwhile), or is no model folder.
        EnvironmentFault: E403 no room, E408 cannot be written; the target is as it was.
    """
    target = Path(os.path.abspath(target))
    try:
        make_folder(target.parent)
        recover(target)
        check_target(target, overwrite=overwrite)
        staging, lock = _make_staging(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        failpoint("export.staged")
        try:
            yield staging
        except OSError as error:
            fault = cannot_write(target, error)
            # Other faults of the system (an unreadable input, say) are not about the target.
            if fault.problems[0].code == "E403":
                raise fault from error
            raise
        try:
            sync_tree(staging)
            failpoint("export.synced")
            _publish(staging, target, overwrite)
        except OSError as error:
            raise cannot_write(target, error) from error
    finally:
        # After a publication this name is gone or holds the old folder; both are to go.
        shutil.rmtree(staging, ignore_errors=True)
        failpoint("export.cleaned")
        os.close(lock)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` for what is needed while it is made; gone when the block ends.

    If the process dies, the next start for the same target clears it away.

    Raises:
        EnvironmentFault: E403 no room, E408 cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch, lock = _make_staging(Path(os.path.abspath(target)))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def claim_target(out: Path, *, overwrite: bool, todo: str = OVERWRITE) -> Path:
    """The absolute target, refused before any work is done if it cannot be written.

    Args:
        out: the target.
        overwrite: whether a model folder is replaced.
        todo: what helps where it exists.

    Raises:
        UsageError: as `check_target`.
    """
    target = Path(os.path.abspath(out))
    with contextlib.suppress(OSError):  # `staged_folder` tries again and says what is wrong
        recover(target)
    check_target(target, overwrite=overwrite, todo=todo)
    return target


def check_target(target: Path, *, overwrite: bool, todo: str = OVERWRITE) -> None:
    """Refuse a target that must not be written, before any work is done for it.

    Raises:
        UsageError: E601, it exists and `overwrite` is false, or it is no model folder.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise UsageError(Problem("E601", "the target exists", "", todo, str(target)))
    plain = target.is_dir() and not target.is_symlink()
    if not plain or (any(target.iterdir()) and not any((target / f).is_file() for f in _MODEL_FILES)):
        todo = "only model folders are overwritten; remove it yourself, or give another folder"
        raise UsageError(
            Problem("E601", "the target exists and is no model folder", "", todo, str(target))
        )


def check_space(target: Path, needed: int) -> None:
    """Refuse to begin what cannot fit: `needed` is the number of bytes of the weights.

    Raises:
        EnvironmentFault: E403, with what is needed and what is free.
    """
    folder = next(p for p in (target, *target.parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        found = f"needs {(needed + _MARGIN) / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        raise EnvironmentFault(
            Problem("E403", "no room to write", found, "free some space and run again", str(target))
        )


def recover(target: Path) -> None:
    """Finish or undo what a killed process left beside `target`; work under way is left alone.

    Raises:
        OSError: if a folder cannot be renamed.
    """
    target = Path(os.path.abspath(target))
    for old in _siblings(target, "old"):
        lock = _try_lock(old)
        if lock is None:
            continue
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, lock)
            if not os.path.lexists(target):
                os.rename(old, target)
                sync_folder(target.parent)
                logger.warning("%s: put back after an export that was killed", target)
            else:
                _discard(old, target)
    for waste in _siblings(target, "tmp"):
        lock = _try_lock(waste)
        if lock is not None:
            shutil.rmtree(waste, ignore_errors=True)
            os.close(lock)


def _siblings(target: Path, kind: str) -> list[Path]:
    # Compared as text and not globbed: a target's name may hold `*` or `[`.
    prefix = f".{target.name}.evomerge-{kind}-"
    if not target.parent.is_dir():
        return []
    return sorted(p for p in target.parent.iterdir() if p.name.startswith(prefix) and p.is_dir())


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.evomerge-{kind}-{secrets.token_hex(6)}")


def _make_staging(target: Path) -> tuple[Path, int]:
    while True:
        staging = _hidden(target, "tmp")
        staging.mkdir()
        lock = _try_lock(staging)
        if lock is not None:
            return staging, lock
        # Somebody who clears away took it for waste in the instant before it was locked.


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the lock on a folder, or None if somebody else holds it or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except OSError as error:
        if isinstance(error, BlockingIOError | FileNotFoundError):
            os.close(descriptor)
            return None
        # No locks on this file system: two exports to one target at once are then not kept apart.
        return descriptor
    if same:
        return descriptor
    os.close(descriptor)
    return None


def _publish(staging: Path, target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        _appear(staging, target)
    else:
        check_target(target, overwrite=overwrite)
        if _renameat2(staging, target, _RENAME_EXCHANGE):
            failpoint("export.exchanged")
            sync_folder(target.parent)
        else:
            _replace_in_two_steps(staging, target)
    failpoint("export.published")


def _appear(staging: Path, target: Path) -> None:
    try:
        if not _renameat2(staging, target, _RENAME_NOREPLACE):
            os.rename(staging, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            check_target(target, overwrite=False)
        raise
    failpoint("export.renamed")
    sync_folder(target.parent)


def _replace_in_two_steps(staging: Path, target: Path) -> None:
    lock = _try_lock(target)
    try:
        old = _hidden(target, "old")
        os.rename(target, old)
        failpoint("export.set_aside")
        try:
            os.rename(staging, target)
        except OSError:
            os.rename(old, target)
            raise
        failpoint("export.renamed")
        sync_folder(target.parent)
        _discard(old, target)
    finally:
        if lock is not None:
            os.close(lock)


def _discard(old: Path, target: Path) -> None:
    """Remove a folder that was set aside; renamed first, so that half of it is never put back."""
    waste = _hidden(target, "tmp")
    os.rename(old, waste)
    failpoint("export.discarded")
    shutil.rmtree(waste, ignore_errors=True)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Rename with a flag; False where the kernel, the C library or the file system has no such thing.

    Raises:
        OSError: if it has, and the rename failed.
    """
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
