"""Genomes in little memory: a search space has few numbers, so that a gene is a place in a list of them.

Places are compressed: many genes have values of their neighbours, or stand at their bounds.
"""

from __future__ import annotations

import threading
import zlib
from array import array
from typing import TypeAlias

import numpy as np

Genome = tuple[float, ...]
Held: TypeAlias = "bytes | array[int] | Genome | None"

_numbers: list[float] = []
_places: dict[float, int] = {}
_adding = threading.Lock()
_NEGATIVE_ZERO = -(1 << 63)
"""Its bits as a whole number."""


def packed_genome(genome: Genome | None) -> Held:
    """A genome in at most two bytes a gene, four beyond 65,536 different numbers; see `whole_genome`."""
    if genome is None or set(map(type, genome)) != {float}:
        return genome
    try:
        places = list(map(_places.__getitem__, genome))
    except KeyError:
        places = [_place(value) for value in genome]
    bits = np.frombuffer(array("d", genome), dtype=np.int64)
    if (bits == _NEGATIVE_ZERO).any():  # 0 and -0 are one key
        return genome
    packed = array("H" if max(places) < 1 << 16 else "I", places)
    return zlib.compress(packed.tobytes(), 1) if packed.typecode == "H" else packed


def whole_genome(held: Held) -> Genome | None:
    """What was packed, to the bit."""
    if held is None or isinstance(held, tuple):
        return held
    places = memoryview(zlib.decompress(held)).cast("H") if isinstance(held, bytes) else held
    return tuple(map(_numbers.__getitem__, places))


GENOME = packed_genome, whole_genome


def _place(value: float) -> int:
    with _adding:
        if value not in _places:
            _numbers.append(value + 0.0)  # 0 for -0
            _places[value] = len(_numbers) - 1
        return _places[value]
