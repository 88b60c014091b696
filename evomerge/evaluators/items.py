"""What makes two items the same item, a hash of their content; and what follows from it: order and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.objectives.scores import SPLITS, Split

SHARES = (50, 25, 25)
"""Percent of the items for search, selection and test."""

NAME_FIELDS = frozenset({"id", "_id", "idx", "index", "doc_id"})
"""Top-level fields that name an item and are no part of what a model is asked."""


Item = Mapping[str, Any]


def item_id(doc: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the item's content, without the fields that only name it.

    Values that JSON cannot hold (dates, images) count by their text.
    """
    content = {key: value for key, value in doc.items() if key not in NAME_FIELDS}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fixed_order(ids: list[str]) -> list[int]:
    """Positions sorted by item id, equal ids by position: any prefix is a random sample of the task."""
    return sorted(range(len(ids)), key=lambda position: (ids[position], position))


def split_of(item: str, shares: Sequence[int] = SHARES) -> Split:
    """The split of an item id: a hash of it, as a number from 0 to 1, falls into one of the shares."""
    place = int(hashlib.sha256(f"split {item}".encode()).hexdigest()[:16], 16) / 2**64 * sum(shares)
    for split, share in zip(SPLITS, shares, strict=True):
        place -= share
        if place < 0:
            return split
    return SPLITS[-1]


def json_lines(path: Path, required: Sequence[str] = ()) -> list[Item]:
    """Items in a JSON-lines file.

    Raises:
        ValueError: naming the line that is no JSON object or lacks a required field.
        OSError: if the file cannot be read.
    """
    try:
        return _json_lines(path, required)
    except UnicodeDecodeError:
        raise not_utf8(path) from None


def not_utf8(path: Path) -> ValueError:
    """The fault of a text file whose bytes are not UTF-8, with the line of the first that is not."""
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x}"
        return ValueError(f"{path.name}:{line}: no UTF-8 text ({byte}); save it as UTF-8")
    return ValueError(f"{path.name}: no UTF-8 text; save it as UTF-8")


def _json_lines(path: Path, required: Sequence[str]) -> list[Item]:
    items: list[Item] = []
    # Not `splitlines`: JSON strings may hold characters that it takes for the end of a line.
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                if number == 1 and line.startswith("\ufeff"):
                    wrong = "a byte order mark before the first item; save it as UTF-8 without one"
                    raise ValueError(f"{path.name}:1: {wrong}") from None
                raise ValueError(f"{path.name}:{number}: not a JSON line ({error.msg})") from None
            if not isinstance(item, dict):
                raise ValueError(f"{path.name}:{number}: an item is a JSON object")
            if lacking := [name for name in required if name not in item]:
                raise ValueError(f"{path.name}:{number}: an item lacks {', '.join(lacking)}")
            items.append(item)
    return items
