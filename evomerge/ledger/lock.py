"""The lock that keeps a second driver off a ledger.

A POSIX record lock on a sibling file, which also says who holds it. A record lock, not `flock`: it is
not inherited by forked workers, so that a killed driver's workers cannot keep a campaign locked, and it
works over NFS. It belongs to the process, therefore a table in this module answers for this process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from evomerge.errors import CampaignInUse, Problem
from evomerge.files.storage import cannot_write, write_all

logger = logging.getLogger(__name__)

_HELD: dict[tuple[int, str], dict[str, Any]] = {}


def _key(path: Path) -> tuple[int, str]:
    # With the pid, because a forked child inherits the table but not the locks.
    return os.getpid(), str(path.parent.resolve() / path.name)


class LedgerLock:
    """A held lock; `LedgerLock.acquire` takes it, `release` lets it go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._key = _key(path)

    @staticmethod
    def acquire(path: Path) -> LedgerLock:
        """Take the lock at once or not at all.

        A lock file that a driver on another host did not sign off is refused even if the lock itself
        can be had, because not every network file system passes locks on to other hosts.

        Raises:
            CampaignInUse: E501, naming host, pid and start of the holder.
            EnvironmentFault: E403 or E408, the lock file cannot be written.
        """
        if _key(path) in _HELD:
            raise _in_use(path, _HELD[_key(path)], "")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            return LedgerLock._take(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @staticmethod
    def _take(path: Path, descriptor: int) -> LedgerLock:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _in_use(path, _holder(descriptor), "") from None
            logger.warning(
                "warning[E407] %s: this file system has no locks (%s); results stay durable, "
                "but nothing keeps a second driver off: start only one",
                path,
                error.strerror,
            )
        host = socket.gethostname()
        holder = _holder(descriptor)
        if holder.get("host", host) != host:
            raise _in_use(path, holder, f"; if that driver is dead, remove {path}")
        mine = {
            "host": host,
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            write_all(descriptor, json.dumps(mine).encode())
            os.fsync(descriptor)
        except OSError as error:
            raise cannot_write(path, error) from error
        _HELD[_key(path)] = mine
        return LedgerLock(path, descriptor)

    def release(self) -> None:
        """Sign off and unlock; safe to call twice. The file stays: removing it would race."""
        if self._descriptor < 0:
            return
        if self._key[0] == os.getpid():
            _HELD.pop(self._key, None)
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(path: Path, holder: dict[str, Any], more: str) -> CampaignInUse:
    who = ", ".join(f"{key} {holder.get(key, 'unknown')}" for key in ("host", "pid", "since"))
    return CampaignInUse(
        Problem(
            "E501",
            "another driver holds this campaign",
            f"held by {who}",
            f"wait for it, or stop it{more}",
            file=str(path.parent),
        )
    )
