"""Scores in little memory: names are shared by all evaluations, numbers lie in arrays.

A history keeps every evaluation of a campaign. As dictionaries of small objects one would take more than its
genome of hundreds of genes does. What comes out equals what went in.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.scores import Metric

Value = TypeVar("Value")

_names: dict[tuple[Any, ...], tuple[Any, ...]] = {}
_SHA256 = re.compile("[0-9a-f]{64}")
_WIDTH = 4


def _one(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Equal names as one object."""
    return _names.setdefault(names, names)


class _Packed(Mapping[str, Value], Generic[Value]):
    """A mapping whose names are shared and whose values are made when they are asked for."""

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: Sequence[str], held: Any) -> None:
        self._keys, self._held = _one(tuple(keys)), held

    def __getitem__(self, name: str) -> Value:
        try:
            return self._value(self._keys.index(name))
        except ValueError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _value(self, place: int) -> Value:
        raise NotImplementedError


class PackedNumbers(_Packed[float]):
    """Numbers by name: eight bytes each."""

    __slots__ = ()

    def _value(self, place: int) -> float:
        return float(self._held[place])


class PackedMetrics(_Packed[Metric]):
    """Metrics by name: four numbers each, the last one NaN where there is no smooth value."""

    __slots__ = ()

    def _value(self, place: int) -> Metric:
        value, stderr, items, smooth = self._held[_WIDTH * place : _WIDTH * (place + 1)]
        return Metric(value, stderr, int(items), None if math.isnan(smooth) else smooth)


class PackedReferences(_Packed[ItemReference]):
    """Places of per-item results by evaluator: offset and length, and the SHA-256 as 32 bytes."""

    __slots__ = ("_digests", "_segments")

    def __init__(self, items: Mapping[str, ItemReference]) -> None:
        found = items.values()
        super().__init__(tuple(items), array("q", [n for r in found for n in (r.offset, r.length)]))
        self._segments = _one(tuple(reference.segment for reference in found))
        self._digests = bytes.fromhex("".join(reference.digest for reference in found))

    def _value(self, place: int) -> ItemReference:
        offset, length = self._held[2 * place : 2 * place + 2]
        digest = self._digests[32 * place : 32 * (place + 1)].hex()
        return ItemReference(self._segments[place], offset, length, digest)


NO_NUMBERS = PackedNumbers((), array("d"))


def packed_numbers(numbers: Mapping[str, float]) -> Mapping[str, float]:
    """Numbers by name, packed."""
    return PackedNumbers(tuple(numbers), array("d", numbers.values())) if numbers else NO_NUMBERS


def packed_metrics(metrics: Mapping[str, Metric]) -> Mapping[str, Metric]:
    """Metrics by name, packed."""
    numbers = array("d")
    for each in metrics.values():
        smooth = math.nan if each.smooth is None else each.smooth
        numbers.extend((each.value, each.stderr, each.items, smooth))
    return PackedMetrics(tuple(metrics), numbers)


def packed_references(items: Mapping[str, ItemReference]) -> Mapping[str, ItemReference]:
    """Places of per-item results by evaluator, packed; as they are where one is none that a store gave."""
    for each in items.values():
        if not _SHA256.fullmatch(each.digest) or max(abs(each.offset), abs(each.length)) >= 1 << 63:
            return items
    return PackedReferences(items)
