"""Scores in little memory: names are shared by all evaluations, numbers lie in one string of bytes.

A history keeps every evaluation of a campaign. As dictionaries of small objects one would take more than its
genome of hundreds of genes does. What comes out equals what went in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from evomerge.ledger.item_store import ItemReference
from evomerge.ledger.packed_field import packed_digest
from evomerge.objectives.scores import Metric

Value = TypeVar("Value")

_NUMBER, _METRIC, _REFERENCE = struct.Struct("<d"), struct.Struct("<4d"), struct.Struct("<qq32s")


@dataclass(frozen=True)
class Names:
    """What an evaluation has numbers of, in the order of their bytes; evaluations alike share one.

    Attributes:
        metrics, seconds, statistics, evaluators: the names.
        segments: of each evaluator, the file with its per-item results.
    """

    metrics: tuple[str, ...]
    seconds: tuple[str, ...]
    statistics: tuple[str, ...]
    evaluators: tuple[str, ...]
    segments: tuple[str, ...]

    def metrics_in(self, numbers: bytes) -> Mapping[str, Metric]:
        """Metrics by name."""
        return _Packed(self.metrics, numbers, 0, _METRIC, lambda place, held: _metric(*held))

    def seconds_in(self, numbers: bytes) -> Mapping[str, float]:
        """Seconds by phase."""
        return _Packed(self.seconds, numbers, self._starts[0], _NUMBER, lambda place, held: held[0])

    def statistics_in(self, numbers: bytes) -> Mapping[str, float]:
        """Statistics of the merge by name."""
        return _Packed(self.statistics, numbers, self._starts[1], _NUMBER, lambda place, held: held[0])

    def items_in(self, numbers: bytes) -> Mapping[str, ItemReference]:
        """Places of per-item results by evaluator."""

        def reference(place: int, held: tuple[Any, ...]) -> ItemReference:
            offset, length, digest = held
            return ItemReference(self.segments[place], offset, length, digest.hex())

        return _Packed(self.evaluators, numbers, self._starts[2], _REFERENCE, reference)

    @cached_property
    def _starts(self) -> tuple[int, int, int]:
        """Where seconds, statistics and references begin."""
        first = _METRIC.size * len(self.metrics)
        second = first + _NUMBER.size * len(self.seconds)
        return first, second, second + _NUMBER.size * len(self.statistics)


_shared: dict[Names, Names] = {}


class _Packed(Mapping[str, Value], Generic[Value]):
    """A mapping whose values are made when they are asked for, from places in a string of bytes."""

    __slots__ = ("_form", "_made", "_names", "_numbers", "_start")

    def __init__(
        self,
        names: tuple[str, ...],
        numbers: bytes,
        start: int,
        form: struct.Struct,
        made: Callable[[int, tuple[Any, ...]], Value],
    ) -> None:
        self._names, self._numbers, self._start = names, numbers, start
        self._form, self._made = form, made

    def __getitem__(self, name: str) -> Value:
        try:
            place = self._names.index(name)
        except ValueError:
            raise KeyError(name) from None
        start = self._start + self._form.size * place
        return self._made(place, self._form.unpack_from(self._numbers, start))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[type, tuple[dict[str, Value]]]:
        return dict, (dict(self),)


def _metric(value: float, stderr: float, items: float, smooth: float) -> Metric:
    return Metric(value, stderr, int(items), None if math.isnan(smooth) else smooth)


def pack_scores(
    metrics: Mapping[str, Metric],
    seconds: Mapping[str, float],
    statistics: Mapping[str, float],
    items: Mapping[str, ItemReference],
) -> tuple[Names, bytes]:
    """Shared names, and the numbers that they find again. Items must be `packable`."""
    numbers = [_METRIC.pack(*_four(metric)) for metric in metrics.values()]
    numbers += map(_NUMBER.pack, (*seconds.values(), *statistics.values()))
    found = items.values()
    numbers += [_REFERENCE.pack(r.offset, r.length, packed_digest(r.digest)) for r in found]
    segments = tuple(reference.segment for reference in found)
    names = Names(tuple(metrics), tuple(seconds), tuple(statistics), tuple(items), segments)
    return _shared.setdefault(names, names), b"".join(numbers)


def _four(metric: Metric) -> tuple[float, float, float, float]:
    smooth = math.nan if metric.smooth is None else metric.smooth
    return metric.value, metric.stderr, metric.items, smooth


def packable(items: Mapping[str, ItemReference]) -> bool:
    """Whether all are references that a store may have given."""
    return all(
        isinstance(packed_digest(each.digest), bytes)
        and max(abs(each.offset), abs(each.length)) < 1 << 63
        for each in items.values()
    )
