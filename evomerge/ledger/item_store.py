"""Per-item results: one append-only binary segment per evaluator, referred to by ledger events.

A record is a magic number, the length of a JSON header, the header (name, dtype, stored dtype and
shape of every array) and the raw little-endian data. Its reference holds offset, length and SHA-256,
stands in the ledger, and is the only way to find a record: bytes that a crash left between records are
never read. Arrays come back bit for bit; values that are all 0 or 1 take one byte each, and float64
values that float32 holds exactly take four. No pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evomerge.errors import LedgerDamaged, Problem
from evomerge.failpoint import armed, failpoint
from evomerge.files.storage import cannot_write, make_folder, sync_folder, write_all
from evomerge.recipe.recipe import canonical_json


@dataclass(frozen=True, slots=True)
class ItemReference:
    """Where a record lies: file name in the folder, place in bytes, and its SHA-256 in hex."""

    segment: str
    offset: int
    length: int
    digest: str


_MAGIC = b"EVI1"
_HEAD = struct.Struct("<4sI")
_KINDS = {np.dtype(n): n for n in ("float64", "float32", "int64", "int32", "uint8", "bool")}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


_BYTE = np.dtype("u1")
_SMALLER = {np.dtype("float64"): np.dtype("<f4"), np.dtype("int64"): np.dtype("<i4")}


def _stored(array: np.ndarray) -> np.ndarray:
    """The smallest form of the array that gives it back bit for bit."""
    # Compared as bytes: -0.0 equals 0.0 but is not the same.
    if array.dtype.kind != "b":
        ones = array == 1
        if ones.astype(array.dtype).tobytes() == array.tobytes():
            return np.asarray(ones.view(_BYTE))
    smaller = _SMALLER.get(array.dtype)
    if smaller is not None:
        with np.errstate(all="ignore"):
            small = array.astype(smaller)
        if small.astype(array.dtype).tobytes() == array.tobytes():
            return small
    return array.astype(array.dtype.newbyteorder("<"))


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
    """One record.

    Raises:
        ValueError: if an array has another dtype than float, int, uint8 or bool, or a value that is not
            finite.
    """
    header = []
    bodies = []
    for name, array in arrays.items():
        kind = _KINDS.get(array.dtype.newbyteorder("="))
        if kind is None:
            raise ValueError(
                f"`{name}` has dtype {array.dtype}; kinds are {', '.join(_KINDS.values())}"
            )
        small = _stored(array)
        if small.dtype.kind == "f" and not np.isfinite(small).all():
            raise ValueError(f"`{name}` has a value that is not finite")
        header.append([name, kind, small.dtype.str, list(array.shape)])
        bodies.append(small.tobytes())
    text = canonical_json(header).encode("ascii")
    return b"".join([_HEAD.pack(_MAGIC, len(text)), text, *bodies])


def decode(record: bytes) -> dict[str, np.ndarray]:
    """The arrays of one record, as they were given to `encode`.

    Raises:
        ValueError: if this is no record.
    """
    if len(record) < _HEAD.size:
        raise ValueError("shorter than a record's head")
    magic, length = _HEAD.unpack_from(record)
    if magic != _MAGIC:
        raise ValueError("it does not begin like a record")
    offset = _HEAD.size + length
    arrays = {}
    for name, dtype, stored, shape in json.loads(record[_HEAD.size : offset]):
        count = int(np.prod(shape, dtype=np.int64))
        small = np.frombuffer(record, np.dtype(stored), count, offset).reshape(shape)
        arrays[name] = small.astype(dtype)
        offset += small.nbytes
    if offset != len(record):
        raise ValueError("it has another length than its header says")
    return arrays


class ItemStore:
    """The per-item results of one campaign, in a folder of their own.

    One writer (the holder of the ledger), any number of readers. `folder` is made when it is needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._named: set[str] = set()

    def append(self, evaluator: str, arrays: Mapping[str, np.ndarray]) -> ItemReference:
        """Add one record to the segment of an evaluator; see `append_records`."""
        return self.append_records(evaluator, [arrays])[0]

    def append_records(
        self, evaluator: str, records: Sequence[Mapping[str, np.ndarray]]
    ) -> list[ItemReference]:
        """Add records to the segment of an evaluator; when this returns, all are on the disk, by one fsync.

        Returns:
            Their references for the ledger.

        Raises:
            ValueError: a bad evaluator name, dtype or value.
            EnvironmentFault: E403 or E408, they could not be written; readers see nothing of them.
        """
        if not _NAME.fullmatch(evaluator):
            raise ValueError(f"evaluator name {evaluator!r} is no plain file name")
        encoded = [encode(arrays) for arrays in records]
        path = self.folder / f"{evaluator}.bin"
        failpoint("item_store.before_append")
        try:
            if path.name not in self._named:
                # Even if the file exists: its creator may have died before its name was durable.
                _create_durably(path)
                self._named.add(path.name)
            offset = _append_durably(path, b"".join(encoded))
        except OSError as error:
            raise cannot_write(path, error) from error
        failpoint("item_store.after_fsync")
        found = []
        for record in encoded:
            digest = hashlib.sha256(record).hexdigest()
            found.append(ItemReference(path.name, offset, len(record), digest))
            offset += len(record)
        return found

    def append_metrics(
        self, models: Sequence[Mapping[str, np.ndarray]]
    ) -> list[dict[str, ItemReference]]:
        """Add per-item results of models by metric (`EVALUATOR.NAME`), a record for each model and evaluator.

        See `append_records`: one fsync an evaluator.

        Returns:
            For each model the references by evaluator.
        """
        grouped: dict[str, dict[int, dict[str, np.ndarray]]] = {}
        for place, items in enumerate(models):
            for metric, values in items.items():
                of_model = grouped.setdefault(metric.split(".")[0], {}).setdefault(place, {})
                of_model[metric] = values
        found: list[dict[str, ItemReference]] = [{} for _ in models]
        for evaluator, records in grouped.items():
            references = self.append_records(evaluator, list(records.values()))
            for place, reference in zip(records, references, strict=True):
                found[place][evaluator] = reference
        return found

    def read(self, reference: ItemReference) -> dict[str, np.ndarray]:
        """The arrays behind a reference, verified; see `read_all`."""
        return next(self.read_all([reference]))

    def read_all(self, references: Iterable[ItemReference]) -> Iterator[dict[str, np.ndarray]]:
        """The arrays behind each reference, verified; every segment is opened once.

        Raises:
            LedgerDamaged: E502, the segment is missing, too short, or has other bytes there; or the
                reference itself leads out of the folder.
        """
        with contextlib.ExitStack() as opened:
            files: dict[str, BinaryIO] = {}
            for reference in references:
                yield self._read(reference, files, opened)

    def _read(
        self, reference: ItemReference, files: dict[str, BinaryIO], opened: contextlib.ExitStack
    ) -> dict[str, np.ndarray]:
        name, offset, length = reference.segment, reference.offset, reference.length

        def damaged(found: str) -> LedgerDamaged:
            wrong = "per-item results are damaged"
            where = f"record at byte {offset}, {length} bytes: {found}"
            todo = "restore the file; the scores in the ledger are not affected"
            return LedgerDamaged(Problem("E502", wrong, where, todo, file=str(self.folder / name)))

        if not name.endswith(".bin") or not _NAME.fullmatch(name):
            raise damaged("this is no reference to a segment")
        if offset < 0 or length < 0:
            raise damaged("offset and length must not be negative")
        try:
            if name not in files:
                files[name] = opened.enter_context((self.folder / name).open("rb"))
            files[name].seek(offset)
            record = files[name].read(length)
        except OSError as error:
            raise damaged(error.strerror or str(error)) from error
        if len(record) != length:
            raise damaged(f"only {len(record)} bytes are there")
        if hashlib.sha256(record).hexdigest() != reference.digest:
            raise damaged("its SHA-256 does not fit")
        try:
            return decode(record)
        except (ValueError, TypeError) as error:
            raise damaged(str(error)) from error


def _create_durably(path: Path) -> None:
    make_folder(path.parent)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    failpoint("item_store.after_create")
    sync_folder(path.parent)


def _append_durably(path: Path, record: bytes) -> int:
    """Add bytes to the end of a file, fsynced; gives the offset they stand at.

    The offset is where the write ended up: a driver that was fenced off may add to the file, too.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if armed("item_store.mid_append"):
                half = len(record) // 2
                write_all(descriptor, record[:half])
                failpoint("item_store.mid_append")
                write_all(descriptor, record[half:])
            else:
                write_all(descriptor, record)
            offset = os.lseek(descriptor, 0, os.SEEK_CUR) - len(record)
            failpoint("item_store.after_write")
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                if os.lseek(descriptor, 0, os.SEEK_CUR) == os.fstat(descriptor).st_size:
                    os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    return offset
