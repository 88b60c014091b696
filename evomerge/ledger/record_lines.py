"""The lines of a file of records, see `records`: how one is written, and which of a file are sound."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from evomerge.errors import LedgerDamaged, Problem
from evomerge.recipe.recipe import canonical_json

FORMAT = 1
"""Format of the lines this code writes; it reads this one and older ones."""

PREFIX = 9
"""Bytes of a line before its JSON."""

_LINE_START = re.compile(rb"[0-9a-f]{0,8}|[0-9a-f]{8} (\{.*)?", re.DOTALL)


@dataclass
class Scan:
    """What a file holds: how many sound records from the start, and how the file ends.

    `size` counts the bytes of the file, `length` those of the sound records; `crc` is that of the last one.
    `damage` is what is wrong behind them, "" where nothing is or where only the tail is torn.
    """

    size: int
    count: int = 0
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
    payload = line[PREFIX:]
    # The text is compared, not the number: int() would also take A for a.
    if line[:PREFIX] != b"%08x " % zlib.crc32(payload, previous):
        return "its checksum does not fit"
    try:
        record = json.loads(payload)
    except ValueError:
        return "it is not JSON"
    if not isinstance(record, dict) or record.get("n") != number:
        return "it has another number"
    return record


Take = Callable[[dict[str, Any]], object]
"""What is given each record of a file that is read, in order; what it raises ends the reading."""


def read_lines(file: BinaryIO, path: Path, take: Take) -> Scan:
    """Read a file from its start to the end it has now, and hand its sound records on.

    Raises:
        LedgerDamaged: E503 a newer format, before any record is handed on.
    """
    found = Scan(file.seek(0, os.SEEK_END))
    file.seek(0)
    while found.length < found.size:
        whole = file.readline(found.size - found.length)
        if not whole:  # its writer has just taken back what it could not finish
            return found
        line = whole.removesuffix(b"\n")
        ended, last = line != whole, found.length + len(whole) == found.size
        record = _decode(line, found.crc, found.count) if ended else "it has no end"
        if isinstance(record, str):
            if not last or not _may_be_torn(line, found):
                found.damage = record
            return found
        if not found.count:
            _refuse_format(record, path)
        take(record)
        found.crc = int(line[:8], 16)
        found.count += 1
        found.length += len(whole)
    return found


def _may_be_torn(line: bytes, scan: Scan) -> bool:
    """Whether a faulty last line can come from a write that was cut off.

    Not if a whole sound record stands at its start and more follows: then its newline was damaged, and
    dropping the line would drop acknowledged records. A file whose very first line looks nothing like a
    record is some other file, and not ours to cut.
    """
    if not scan.count and not (_LINE_START.fullmatch(line) or not line.strip(b"\0")):
        return False
    with contextlib.suppress(ValueError):
        text = line[PREFIX:].decode("latin-1")
        _, end = json.JSONDecoder().raw_decode(text)
        whole = isinstance(_decode(line[: PREFIX + end], scan.crc, scan.count), dict)
        return not (whole and end < len(text))
    return True


def refuse_damage(scan: Scan, path: Path) -> None:
    """Raise what is wrong with a file behind its sound records, if anything is.

    Raises:
        LedgerDamaged: E502.
    """
    if scan.damage:
        raise LedgerDamaged(
            Problem(
                "E502",
                "the ledger is damaged",
                f"record {scan.count} at byte {scan.length:,}: {scan.damage}",
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
