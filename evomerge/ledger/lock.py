"""The lock that keeps a second driver off a ledger, and the lease by which one that is gone is known.

A POSIX record lock on a sibling file, which also says who holds it. A record lock, not `flock`: it is
not inherited by forked workers, so that a killed driver's workers cannot keep a campaign locked, and it
works over NFS. It belongs to the process, therefore a table in this module answers for this process.

Not every file system passes locks on to other hosts, and a stopped process keeps its locks. So the holder
renews a *lease*: every `BEAT` seconds it counts up a number in the file. Whoever wants the campaign of a
driver on another host watches that number for `LEASE` seconds by a clock of its own; wall clocks play no
part. What was not renewed in that time is taken over: a new lock file takes the place of the old one, and
its holder is *fenced off* (Gray and Cheriton 1989, "Leases"; the file's identity is the fencing token). A
fenced-off driver that wakes up finds another file there and writes nothing any more; see `takeover` for a
write that was on its way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.errors import CampaignInUse, Problem
from evomerge.files.storage import cannot_write, sync_folder, write_all
from evomerge.ledger.process import started_at

logger = logging.getLogger(__name__)

BEAT = 10.0
"""Seconds between two renewals of the lease."""

LEASE = 60.0
"""Seconds without a renewal after which a holder counts as gone."""

_HELD: dict[tuple[int, str], dict[str, Any]] = {}


def _key(path: Path) -> tuple[int, str]:
    # With the pid, because a forked child inherits the table but not the locks.
    return os.getpid(), str(path.parent.resolve() / path.name)


class LedgerLock:
    """A held lock; `LedgerLock.acquire` takes it, `release` lets it go.

    Attributes:
        path: the lock file.
        took_over: whether somebody who did not sign off may still hold the file that it guards open.
    """

    def __init__(self, path: Path, descriptor: int, holder: dict[str, Any]) -> None:
        self.path = path
        self.took_over = bool(holder.get("taking_over"))
        self._descriptor = descriptor
        self._holder = holder
        self._key = _key(path)
        self._identity = _identity(os.fstat(descriptor))
        self._over = threading.Event()
        self._writing = threading.Lock()
        _HELD[self._key] = holder
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    @staticmethod
    def acquire(path: Path, *, take_over: bool = False) -> LedgerLock:
        """Take the lock, from a holder that is gone if need be.

        At once if nobody holds it, or if it was held on this host by a process that has ended. A driver on
        another host that did not sign off is watched for `LEASE` seconds first. One that still has the lock
        is refused at once, unless `take_over` asks to watch it, too.

        Raises:
            CampaignInUse: E501, naming host, pid and start of the holder.
            EnvironmentFault: E403 or E408, the lock file cannot be written.
        """
        key, mine = _key(path), _own()
        # Of two threads one goes on: a process is never in its own way, and whatever it closes unlocks.
        if (held := _HELD.setdefault(key, mine)) is not mine:
            raise _in_use(path, held, "")
        try:
            return _acquired(path, take_over)
        except BaseException:
            _HELD.pop(key, None)
            raise

    def check(self) -> None:
        """See that nobody has taken over, nor signed the same file where another host sees no locks.

        Raises:
            CampaignInUse: E501, somebody has.
            OSError: the file system does not tell.
        """
        try:
            now = _identity(os.stat(self.path))
        except FileNotFoundError:
            return  # removed by hand: whoever makes it anew has another file
        if now == self._identity and self._is_signed():
            return
        holder = _holder(self._descriptor) if now == self._identity else _read(self.path)
        todo = "this one stops; what it has recorded is kept"
        raise _in_use(self.path, holder, "", "another driver has taken this campaign over", todo)

    def is_on(self, descriptor: int) -> bool:
        """Whether it is held by this descriptor."""
        return self._descriptor == descriptor

    def settled(self) -> None:
        """Note that whoever was fenced off can reach nothing any more."""
        self._holder.pop("taking_over", None)
        self._write()

    def release(self) -> None:
        """Sign off and unlock; safe to call twice. The file stays: removing it would race."""
        if self._descriptor < 0:
            return
        if self._key[0] != os.getpid():  # a forked child, without the thread that renews
            os.close(self._descriptor)
            self._descriptor = -1
            return
        self._over.set()
        with self._writing:
            with contextlib.suppress(OSError):
                if self._is_signed():
                    os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1
            _HELD.pop(self._key, None)

    def _is_signed(self) -> bool:
        """Whether nobody else has signed this file since."""
        return _holder(self._descriptor).get("token") in (None, self._holder["token"])

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            self._holder["beat"] += 1
            # Where it cannot be written, another host may think after a while that this driver is gone, and
            # the check before each append finds out whether it did.
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        with self._writing:
            if self._descriptor >= 0 and not self._over.is_set() and self._is_signed():
                _write_holder(self._descriptor, self._holder)


def _acquired(path: Path, take_over: bool) -> LedgerLock:
    """See `LedgerLock.acquire`."""
    lock: LedgerLock | None = None
    while lock is None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            if not _try_lock(descriptor, path):
                lock = _taken_from_a_live_process(path, descriptor, take_over)
            elif _is_at(path, _identity(os.fstat(descriptor))):  # else it was taken over in this moment
                lock = _signed(path, descriptor, take_over)
        finally:
            if lock is None or not lock.is_on(descriptor):
                os.close(descriptor)
    return lock


def _try_lock(descriptor: int, path: Path) -> bool:
    """Whether the lock is had; where the file system has none, with a warning."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        logger.warning(
            "warning[E407] %s: this file system has no locks (%s); results stay durable, "
            "but nothing keeps a second driver off: start only one",
            path,
            error.strerror,
        )
    return True


def _signed(path: Path, descriptor: int, take_over: bool) -> LedgerLock:
    """The lock of a file that nobody on this host holds, once it is sure that nobody else does."""
    holder = _holder(descriptor)
    if holder.get("host", socket.gethostname()) != socket.gethostname():
        if "beat" not in holder and not take_over:
            todo = "; if that driver is dead, take it over with `evomerge run --takeover`"
            raise _in_use(path, holder, todo)
        _watch(path, holder)
        return _replaced(path, holder)
    mine = _own()
    if holder.get("taking_over"):
        mine["taking_over"] = True  # who began that did not end it
    try:
        _write_holder(descriptor, mine)
    except OSError as error:
        raise cannot_write(path, error) from error
    return LedgerLock(path, descriptor, mine)


def _taken_from_a_live_process(path: Path, descriptor: int, take_over: bool) -> LedgerLock:
    """The lock of a process that has it, but may be stopped for good or on a host that is gone."""
    holder = _holder(descriptor)
    if not take_over:
        raise _in_use(path, holder, "; if its process is stopped for good, `evomerge run --takeover`")
    if "beat" not in holder:
        raise _in_use(path, holder, "; it renews no lease, so that nothing tells whether it lives")
    _watch(path, holder)
    return _replaced(path, holder)


def _watch(path: Path, holder: dict[str, Any]) -> None:
    """Wait until a lease has run out.

    Raises:
        CampaignInUse: E501, it was renewed, or the lock changed hands.
    """
    who = f"pid {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown')}"
    logger.warning("%s: held by %s; watching for %g s whether it lives", path.parent, who, LEASE)
    seen, end = path.read_bytes(), time.monotonic() + LEASE
    while time.monotonic() < end:
        time.sleep(min(1.0, LEASE / 10))
        with contextlib.suppress(FileNotFoundError):
            now = path.read_bytes()
            if now != seen:
                raise _in_use(path, _parsed(now) or holder, "; it has just renewed its lease")
    logger.warning("%s: %s has not renewed its lease; taking over", path.parent, who)


def _replaced(path: Path, holder: dict[str, Any]) -> LedgerLock:
    """The lock on a new file in the place of the old one.

    Raises:
        CampaignInUse: E501, somebody else was quicker.
    """
    mine = _own() | {"taking_over": True}
    made = path.with_name(f".{path.name}-{mine['token']}")
    descriptor = -1
    try:
        with _one_at_a_time(path):
            if _read(path) != holder:
                raise _in_use(path, _read(path), "")
            descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            _try_lock(descriptor, path)
            _write_holder(descriptor, mine)
            os.replace(made, path)
            sync_folder(path.parent)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise
    finally:
        made.unlink(missing_ok=True)
    return LedgerLock(path, descriptor, mine)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Where locks work, two that take over do so one after the other; the second finds another holder."""
    turn = os.open(path.with_name(f"{path.name}.turn"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.lockf(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)


def _own() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": started_at(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "token": secrets.token_hex(8),
        "beat": 0,
    }


def _write_holder(descriptor: int, holder: dict[str, Any]) -> None:
    """Write who holds a lock, in one write where its length is as before.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(holder).encode()
    size = os.fstat(descriptor).st_size
    text = text.ljust(size)  # a reader never meets an empty or a cut file
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, text)
    os.fsync(descriptor)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_at(path: Path, identity: tuple[int, int]) -> bool:
    """Whether a path still names the file with this identity."""
    try:
        return _identity(os.stat(path)) == identity
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> dict[str, Any]:
    return _parsed(os.pread(descriptor, 4096, 0))


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(
    path: Path,
    holder: dict[str, Any],
    more: str,
    wrong: str = "another driver holds this campaign",
    todo: str = "wait for it, or stop it",
) -> CampaignInUse:
    who = ", ".join(f"{key} {holder.get(key, 'unknown')}" for key in ("host", "pid", "since"))
    return CampaignInUse(
        Problem("E501", wrong, f"held by {who}", f"{todo}{more}", file=str(path.parent))
    )
