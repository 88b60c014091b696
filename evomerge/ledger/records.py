"""Records: an append-only file of JSON objects, durable line by line; a ledger is one.

One line a record, `CRC SPACE JSON NEWLINE`: canonical JSON in ASCII, and before it the CRC-32 as eight
lower-case hex digits. The CRC of a line is taken over its JSON *continuing from the CRC of the line
before*, and every record carries its number `n`, so that a line that is changed, lost, repeated or moved
breaks the chain at that place. The first record also carries `format`.

There is one writer, held off by a lock with a lease. Whoever takes over from one that is gone puts a copy in
the place of the file: what the other may still write is read by nobody. `append` returns after fsync: what it
has taken survives the death of the process and of the machine. A line that was cut off by such a death was
never acknowledged and is dropped when the file is opened next; damage before the tail is refused. Readers
need no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import LedgerDamaged, Problem
from evomerge.failpoint import armed, failpoint
from evomerge.files.storage import cannot_write, sync_folder, write_all
from evomerge.ledger.lock import LedgerLock
from evomerge.ledger.takeover import put_out_of_reach
from evomerge.recipe.recipe import canonical_json

FORMAT = 1
"""Format of the lines this code writes; it reads this one and older ones."""

logger = logging.getLogger(__name__)

_LINE_START = re.compile(rb"[0-9a-f]{0,8}|[0-9a-f]{8} (\{.*)?", re.DOTALL)
_PREFIX = 9


@dataclass
class _Scan:
    """What a file's bytes hold: its sound records from the start, and how the file ends.

    `length` counts the bytes of the sound records, `crc` is that of the last one. `damage` is what is
    wrong behind them, "" where nothing is or where only the tail is torn.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    length: int = 0
    crc: int = 0
    damage: str = ""


def encode(record: Mapping[str, Any], previous: int) -> tuple[bytes, int]:
    """The line of a record, and its CRC; `previous` is the CRC of the line before (0 for the first).

    Raises:
        ValueError: if a number in the record is not finite; it names the field.
        TypeError: if the record is not JSON data.
    """
    try:
        payload = canonical_json(record).encode("ascii")
    except ValueError as error:
        where = _non_finite(record, "")
        raise ValueError(f"a ledger holds finite numbers only; {where or error}") from None
    crc = zlib.crc32(payload, previous)
    return b"%08x %b\n" % (crc, payload), crc


def _non_finite(data: Any, where: str) -> str:
    if isinstance(data, float) and not math.isfinite(data):
        return f"found {data!r} at `{where}`"
    if isinstance(data, Mapping):
        found = (_non_finite(v, f"{where}.{k}".lstrip(".")) for k, v in data.items())
    elif isinstance(data, list | tuple):
        found = (_non_finite(v, f"{where}[{i}]") for i, v in enumerate(data))
    else:
        return ""
    return next(filter(None, found), "")


def _decode(line: bytes, previous: int, number: int) -> dict[str, Any] | str:
    """The record of a line (without newline), or what is wrong with it."""
    payload = line[_PREFIX:]
    # The text is compared, not the number: int() would also take A for a.
    if line[:_PREFIX] != b"%08x " % zlib.crc32(payload, previous):
        return "its checksum does not fit"
    try:
        record = json.loads(payload)
    except ValueError:
        return "it is not JSON"
    if not isinstance(record, dict) or record.get("n") != number:
        return "it has another number"
    return record


def _scan(data: bytes) -> _Scan:
    scan = _Scan()
    while scan.length < len(data):
        end = data.find(b"\n", scan.length)
        last = end in (-1, len(data) - 1)
        line = data[scan.length : len(data) if end == -1 else end]
        record = "it has no end" if end == -1 else _decode(line, scan.crc, len(scan.records))
        if isinstance(record, str):
            if not last or not _may_be_torn(line, scan):
                scan.damage = record
            return scan
        scan.crc = int(line[:8], 16)
        scan.records.append(record)
        scan.length = end + 1
    return scan


def _may_be_torn(line: bytes, scan: _Scan) -> bool:
    """Whether a faulty last line can come from a write that was cut off.

    Not if a whole sound record stands at its start and more follows: then its newline was damaged, and
    dropping the line would drop acknowledged records. A file whose very first line looks nothing like a
    record is some other file, and not ours to cut.
    """
    if not scan.records and not (_LINE_START.fullmatch(line) or not line.strip(b"\0")):
        return False
    with contextlib.suppress(ValueError):
        text = line[_PREFIX:].decode("latin-1")
        _, end = json.JSONDecoder().raw_decode(text)
        whole = isinstance(_decode(line[: _PREFIX + end], scan.crc, len(scan.records)), dict)
        return not (whole and end < len(text))
    return True


def _refuse_damage(scan: _Scan, path: Path) -> None:
    if scan.records:
        _refuse_format(scan.records[0], path)
    if scan.damage:
        raise LedgerDamaged(
            Problem(
                "E502",
                "the ledger is damaged",
                f"record {len(scan.records)} at byte {scan.length:,}: {scan.damage}",
                "`evomerge repair` copies what is sound",
                file=str(path),
            )
        )


def _refuse_format(first: Mapping[str, Any], path: Path) -> None:
    if not isinstance(first.get("format"), int) or first["format"] > FORMAT:
        made = f" by evomerge {first['evomerge']}" if "evomerge" in first else ""
        raise LedgerDamaged(
            Problem(
                "E503",
                "the ledger has a format this evomerge cannot read",
                f"written{made} in format {first.get('format')}, this one reads up to {FORMAT}",
                "use the evomerge that wrote it, or a newer one",
                file=str(path),
            )
        )


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file, in order, without a lock; a torn tail is left out.

    Raises:
        LedgerDamaged: E502 damage before the tail, E503 a newer format.
        FileNotFoundError: if there is no such file.
    """
    scan = _scan(Path(path).read_bytes())
    _refuse_damage(scan, Path(path))
    return scan.records


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
    scan = _scan(data)
    if scan.records:
        _refuse_format(scan.records[0], Path(path))
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
    kept = len(scan.records) if keep is None else min(keep, len(scan.records))
    return Repair(kept, len(data) - length, _salvage(data[length:]))


def _length_of(data: bytes, records: int) -> int:
    """Bytes of the first `records` lines."""
    return sum(len(line) for line in data.splitlines(keepends=True)[:records])


def _salvage(data: bytes) -> tuple[dict[str, Any], ...]:
    """Records whose checksum fits the stored checksum of the line before them."""
    found = []
    previous: int | None = None
    for line in data.split(b"\n")[:-1]:
        stored = int(line[:8], 16) if re.fullmatch(rb"[0-9a-f]{8} ", line[:_PREFIX]) else None
        if stored is not None and previous is not None:
            with contextlib.suppress(ValueError):
                record = json.loads(line[_PREFIX:])
                if zlib.crc32(line[_PREFIX:], previous) == stored and isinstance(record, dict):
                    found.append(record)
        previous = stored
    return tuple(found)


class RecordFile:
    """A file of records, open for writing. A context manager; see `RecordFile.open`.

    Attributes:
        path: the file.
        records: those it held when it was opened, in order.
        count: how many it holds now.
    """

    def __init__(self, path: Path, descriptor: int, lock: LedgerLock, scan: _Scan) -> None:
        self.path = path
        self.records = scan.records
        self.count = len(scan.records)
        self._descriptor = descriptor
        self._lock = lock
        self._crc = scan.crc
        self._length = scan.length
        self._closed = ""

    @staticmethod
    def open(path: str | Path, *, create: bool, take_over: bool = False) -> RecordFile:
        """Open a file as its one writer; `create` makes an empty one if there is none.

        `take_over`: from a writer whose lease has run out; see `LedgerLock.acquire`.

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
            return RecordFile._open_locked(path, lock, create)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def _open_locked(path: Path, lock: LedgerLock, create: bool) -> RecordFile:
        descriptor = -1
        try:
            if lock.took_over:
                put_out_of_reach(path, lock.check)
                lock.settled()
            flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
            data = path.read_bytes()
            scan = _scan(data)
            _refuse_damage(scan, path)
            if len(data) > scan.length:
                logger.warning(
                    "%s: dropped an unfinished record at its end (record %d, byte %d, %d bytes)",
                    path,
                    len(scan.records),
                    scan.length,
                    len(data) - scan.length,
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
        return RecordFile(path, descriptor, lock, scan)

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Add one record; when this returns, it is on the disk. `n` (and `format`) are added here.

        Raises:
            ValueError: a number that is not finite, or a field the ledger sets itself.
            EnvironmentFault: E403 or E408, it could not be written; the ledger is as it was before.
            CampaignInUse: E501, another writer has taken over, with this record or without.
            RuntimeError: if the ledger was closed, was written to by somebody else, or could not be
                put back after such a fault.
        """
        if self._closed:
            raise RuntimeError(f"cannot append to {self.path}: {self._closed}")
        taken = {"n", "format"} & record.keys()
        if taken:
            raise ValueError(f"the ledger sets {', '.join(sorted(taken))} itself")
        own: dict[str, Any] = {"n": self.count}
        if not self.count:
            own["format"] = FORMAT
        line, crc = encode({**record, **own}, self._crc)
        self._refuse_fenced_off()
        failpoint("ledger.before_append")
        if os.fstat(self._descriptor).st_size != self._length:
            # Another writer where locks do not work, or an interrupt between fsync and bookkeeping.
            self._closed = "its size changed since the last append; open it again"
            raise RuntimeError(f"cannot append to {self.path}: {self._closed}")
        try:
            if armed("ledger.mid_append"):
                half = len(line) // 2
                write_all(self._descriptor, line[:half])
                failpoint("ledger.mid_append")
                write_all(self._descriptor, line[half:])
            else:
                write_all(self._descriptor, line)
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
        self.count += 1
        self._crc = crc
        self._length += len(line)
        written: dict[str, Any] = json.loads(line[_PREFIX:])
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
