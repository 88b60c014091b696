"""Records: an append-only file of JSON objects, durable line by line; a ledger is one.

One line a record, `CRC SPACE JSON NEWLINE`: canonical JSON in ASCII, and before it the CRC-32 as eight
lower-case hex digits. The CRC of a line is taken over its JSON *continuing from the CRC of the line
before*, and every record carries its number `n`, so that a line that is changed, lost, repeated or moved
breaks the chain at that place. The first record also carries `format`.

There is one writer, held off by a lock with a lease. Whoever takes over from one that is gone puts a copy in
the place of the file: what the other may still write is read by nobody. `append` returns after fsync: what it
has taken survives the death of the process and of the machine. `append_all` takes several records with one
fsync; a death in the middle may leave the first of them. A line that was cut off by such a death was
never acknowledged and is dropped when the file is opened next; damage before the tail is refused. Readers
need no lock. A file is read line by line and never held as a whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.failpoint import armed, failpoint
from evomerge.files.storage import cannot_write, sync_folder, write_all
from evomerge.ledger.lock import LedgerLock
from evomerge.ledger.record_lines import FORMAT, PREFIX, Scan, Take, encode, read_lines, refuse_damage
from evomerge.ledger.takeover import put_out_of_reach

logger = logging.getLogger(__name__)


def take_records(path: str | Path, take: Take) -> None:
    """Hand on the records of a file, in order, without a lock; a torn tail is left out.

    Raises:
        LedgerDamaged: E502 damage before the tail, behind what was handed on; E503 a newer format.
        FileNotFoundError: if there is no such file.
    """
    with Path(path).open("rb") as file:
        refuse_damage(read_lines(file, Path(path), take), Path(path))


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file as a list; see `take_records`."""
    found: list[dict[str, Any]] = []
    take_records(path, found.append)
    return found


@dataclass(frozen=True)
class Repair:
    """What `repair` found: records copied, bytes left behind, and sound records among those.

    Those of `salvaged` stand behind the damage. They cannot be part of the copy, since what came just
    before them is unknown, but their content is checked by their own checksums.
    """

    kept: int
    dropped_bytes: int
    salvaged: tuple[dict[str, Any], ...]


def repair(path: str | Path, out: str | Path, *, keep: int | None = None) -> Repair:
    """Copy the sound records from the start of a file to a new one; the damaged one is not touched.

    Args:
        path: the damaged file.
        out: the file to make.
        keep: most records to copy, where the caller knows that those behind are of no use.

    Raises:
        LedgerDamaged: E503 a newer format.
        EnvironmentFault: if `out` exists or cannot be written.
    """
    data = Path(path).read_bytes()
    scan = read_lines(io.BytesIO(data), Path(path), lambda record: None)
    length = scan.length if keep is None else _length_of(data[: scan.length], keep)
    out = Path(out)
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data[:length])
            failpoint("repair.written")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(out.parent)
    except OSError as error:
        raise cannot_write(out, error) from error
    kept = scan.count if keep is None else min(keep, scan.count)
    return Repair(kept, len(data) - length, _salvage(data[length:]))


def _length_of(data: bytes, records: int) -> int:
    """Bytes of the first `records` lines."""
    return sum(len(line) for line in data.splitlines(keepends=True)[:records])


def _salvage(data: bytes) -> tuple[dict[str, Any], ...]:
    """Records whose checksum fits the stored checksum of the line before them."""
    found = []
    previous: int | None = None
    for line in data.split(b"\n")[:-1]:
        stored = int(line[:8], 16) if re.fullmatch(rb"[0-9a-f]{8} ", line[:PREFIX]) else None
        if stored is not None and previous is not None:
            with contextlib.suppress(ValueError):
                record = json.loads(line[PREFIX:])
                if zlib.crc32(line[PREFIX:], previous) == stored and isinstance(record, dict):
                    found.append(record)
        previous = stored
    return tuple(found)


class RecordFile:
    """A file of records, open for writing. A context manager; see `RecordFile.open`.

    Attributes:
        path: the file.
        records: those it held when it was opened, in order; empty where `open` handed them on.
        count: how many it holds now.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        lock: LedgerLock,
        scan: Scan,
        records: list[dict[str, Any]],
    ) -> None:
        self.path = path
        self.records = records
        self.count = scan.count
        self._descriptor = descriptor
        self._lock = lock
        self._crc = scan.crc
        self._length = scan.length
        self._closed = ""

    @staticmethod
    def open(
        path: str | Path, *, create: bool, take_over: bool = False, take: Take | None = None
    ) -> RecordFile:
        """Open a file as its one writer; `create` makes an empty one if there is none.

        `take_over`: from a writer whose lease has run out; see `LedgerLock.acquire`. `take`: given what is
        there, which is kept in `records` without it.

        A torn tail is cut off, with a line in the log.

        Raises:
            CampaignInUse: E501, another writer holds it; the message names its host, pid and start.
            LedgerDamaged: E502 damage before the tail, E503 a newer format.
            EnvironmentFault: E403 or E408, the folder cannot be written.
            FileNotFoundError: if there is no file and `create` is false.
        """
        path = Path(path)
        if not create and not path.exists():
            raise FileNotFoundError(f"no ledger at {path}")
        lock = LedgerLock.acquire(path.with_name(path.name + ".lock"), take_over=take_over)
        try:
            return RecordFile._open_locked(path, lock, create, take)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def _open_locked(path: Path, lock: LedgerLock, create: bool, take: Take | None) -> RecordFile:
        descriptor = -1
        records: list[dict[str, Any]] = []
        try:
            if lock.took_over:
                put_out_of_reach(path, lock.check)
                lock.settled()
            flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
            with path.open("rb") as file:
                scan = read_lines(file, path, records.append if take is None else take)
            refuse_damage(scan, path)
            if scan.size > scan.length:
                logger.warning(
                    "%s: dropped an unfinished record at its end (record %d, byte %d, %d bytes)",
                    path,
                    scan.count,
                    scan.length,
                    scan.size - scan.length,
                )
                failpoint("ledger.before_truncate")
                os.ftruncate(descriptor, scan.length)
            # What was read may still be in the page cache only, if its writer died before its fsync.
            os.fsync(descriptor)
            failpoint("ledger.after_open_fsync")
            sync_folder(path.parent)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise cannot_write(path, error) from error
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return RecordFile(path, descriptor, lock, scan, records)

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Add one record; see `append_all`."""
        return self.append_all([record])[0]

    def append_all(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add records in this order; when this returns, all are on the disk, by one fsync.

        `n` (and `format`) are added here. Gives them with these, not read back: what is JSON data comes back
        from a file as it went in.

        Raises:
            ValueError: a number that is not finite, or a field the ledger sets itself.
            EnvironmentFault: E403 or E408, they could not be written; the ledger is as it was before.
            CampaignInUse: E501, another writer has taken over, with these records, with some or without.
            RuntimeError: if the ledger was closed, was written to by somebody else, or could not be
                put back after such a fault.
        """
        if self._closed:
            raise RuntimeError(f"cannot append to {self.path}: {self._closed}")
        if not records:
            return []
        lines, written, crc = [], list[dict[str, Any]](), self._crc
        for number, record in enumerate(records, self.count):
            taken = {"n", "format"} & record.keys()
            if taken:
                raise ValueError(f"the ledger sets {', '.join(sorted(taken))} itself")
            own = {"n": number} if number else {"n": 0, "format": FORMAT}
            written.append({**record, **own})
            line, crc = encode(written[-1], crc)
            lines.append(line)
        data = b"".join(lines)
        self._refuse_fenced_off()
        failpoint("ledger.before_append")
        if os.fstat(self._descriptor).st_size != self._length:
            # Another writer where locks do not work, or an interrupt between fsync and bookkeeping.
            self._closed = "its size changed since the last append; open it again"
            raise RuntimeError(f"cannot append to {self.path}: {self._closed}")
        try:
            if armed("ledger.mid_append"):
                half = len(data) // 2
                write_all(self._descriptor, data[:half])
                failpoint("ledger.mid_append")
                write_all(self._descriptor, data[half:])
            else:
                write_all(self._descriptor, data)
            failpoint("ledger.after_write")
            os.fsync(self._descriptor)
        except OSError as error:
            self._roll_back()
            raise cannot_write(self.path, error) from error
        except BaseException:
            self._roll_back()
            raise
        # Whoever took over in between has read what was written before; what came after is nowhere.
        self._refuse_fenced_off()
        failpoint("ledger.after_fsync")
        self.count += len(lines)
        self._crc = crc
        self._length += len(data)
        return written

    def _refuse_fenced_off(self) -> None:
        self._closed = "another driver has taken it over"
        try:
            self._lock.check()
        except OSError as error:
            self._closed = f"its lock could not be looked at ({error}); open it again"
            raise cannot_write(self._lock.path, error) from error
        self._closed = ""

    def _roll_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._length)
            os.fsync(self._descriptor)
        except OSError as error:
            self._closed = f"a failed append could not be undone ({error}); open it again"

    def close(self) -> None:
        """Close the file and let go of the lock; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._closed = "it was closed"
            self._lock.release()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
