"""Genomes in little memory: a search space has few numbers, so that a gene is a place in a list of them."""

from __future__ import annotations

import threading
from array import array
from typing import Any, overload

Genome = tuple[float, ...]

_numbers: list[float] = []
_places: dict[float, int] = {}
_adding = threading.Lock()


class PackedGenome:
    """A field that holds a genome (or None) in two bytes a gene, four beyond 65,536 different numbers.

    What comes out equals what went in, to the bit.
    """

    @overload
    def __get__(self, owner: None, kind: type) -> None: ...
    @overload
    def __get__(self, owner: object, kind: type) -> Genome | None: ...
    def __get__(self, owner: Any, kind: type) -> Genome | None:
        held = None if owner is None else owner._genome
        return tuple(map(_numbers.__getitem__, held)) if isinstance(held, array) else held

    def __set__(self, owner: Any, genome: Genome | None) -> None:
        owner._genome = None if genome is None else _packed(genome)


def _packed(genome: Genome) -> array[int] | Genome:
    if set(map(type, genome)) != {float}:
        return genome
    try:
        places = list(map(_places.__getitem__, genome))
    except KeyError:
        places = [_place(value) for value in genome]
    packed = array("H" if max(places) < 1 << 16 else "I", places)
    # 0 and -0 are one key.
    same = array("d", map(_numbers.__getitem__, packed)).tobytes() == array("d", genome).tobytes()
    return packed if same else genome


def _place(value: float) -> int:
    with _adding:
        if value not in _places:
            _numbers.append(value)
            _places[value] = len(_numbers) - 1
        return _places[value]
