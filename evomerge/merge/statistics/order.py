"""Exact order statistics of magnitudes: ranks, tables of them, and a radix count over many tensors.

Ranks count from the largest value, 1 first. A table holds the values at the ranks that densities on the
1e-3 grid ask for and at their neighbours, which bands and other roundings ask for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np

GRID = 1000
"""Densities `1/GRID ... 1` have a place in the tables."""

_LOW_BITS = 15
_LOW = 1 << _LOW_BITS
_HIGH = 1 << (31 - _LOW_BITS)


def share(fraction: float, size: int, binary: bool = False) -> int:
    """`floor(fraction * size)`.

    The fraction counts as the decimal number it is written as: 0.29 of 100 is 29, though the nearest
    double lies below 0.29. With `binary` it is that double, as in most implementations: 28.
    """
    return int(fraction * size) if binary else math.floor(Fraction(repr(float(fraction))) * size)


def rank(density: float, size: int, binary: bool = False) -> int:
    """How many of `size` elements a density keeps: its share, at least one."""
    return max(1, share(density, size, binary))


def band_ranks(density: float, gamma: float, size: int, binary: bool = False) -> tuple[int, int]:
    """(first, last) rank that Breadcrumbs keeps: the largest `gamma` are dropped, then `density` kept.

    Where both do not fit, fewer of the largest are dropped.
    """
    kept = rank(density, size, binary)
    dropped = min(share(gamma, size, binary), size - kept)
    return dropped + 1, dropped + kept


def grid_ranks(size: int) -> np.ndarray:
    """int64 [3, GRID]: the rank of each density on the grid, the one before and the one after."""
    ranks = np.maximum(np.arange(1, GRID + 1, dtype=np.int64) * size // GRID, 1)
    around = np.stack([ranks - 1, ranks, ranks + 1])
    return np.asarray(np.clip(around, 1, max(size, 1)))


def table(values: np.ndarray) -> np.ndarray:
    """The values at `grid_ranks`, float32 [3, GRID]; sorts `values` in place."""
    if not values.size:
        return np.zeros((3, GRID), dtype=np.float32)
    values.sort()
    return np.asarray(values[values.size - grid_ranks(values.size)])


def find(found: np.ndarray, place: int, size: int) -> float | None:
    """The value at rank `place` of `size`, if the table holds it."""
    near = place * GRID // max(size, 1)
    for step in range(max(near - 1, 1), min(near + 2, GRID) + 1):
        offset = place - max(step * size // GRID, 1)
        if -1 <= offset <= 1:
            return float(found[offset + 1, step - 1])
    return None


def at_rank(values: np.ndarray, place: int) -> float:
    """The value at rank `place`, without a table."""
    index = values.size - place
    return float(np.partition(values, index)[index]) if values.size else 0.0


class Totals:
    """Sums of weights over the elements whose value reaches each of some thresholds, in one pass.

    Args:
        thresholds: [n], in any order.
        rows: how many kinds of weights there are.
    """

    def __init__(self, thresholds: np.ndarray, rows: int) -> None:
        self._steps, self._places = np.unique(thresholds, return_inverse=True)
        self._sums = np.zeros((rows, self._steps.size + 1))

    def add(self, values: np.ndarray, weights: np.ndarray) -> None:
        """Count `values` [m] with `weights` float64 [rows, m]."""
        reached = np.searchsorted(self._steps, values, side="right")
        for row, weight in zip(self._sums, weights, strict=True):
            row += np.bincount(reached, weight, minlength=row.size)

    def result(self) -> np.ndarray:
        """The sum at each threshold, float64 [rows, n]."""
        above = np.cumsum(self._sums[:, :0:-1], axis=1)[:, ::-1]
        return np.asarray(above[:, self._places])


def radix_order_statistics(
    bits: Callable[[], Iterable[np.ndarray]], ranks_of: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Exact order statistics over values that do not fit into memory together, float32 [ranks].

    Magnitudes of float32 order as their 31 bits do. A first pass counts the upper 16 bits, which tells
    the bin each rank falls into; a second counts the lower 15 bits inside those bins.

    Args:
        bits: yields the magnitudes' bits, uint32, part by part; called twice.
        ranks_of: the wanted ranks, given the number of values.
    """
    coarse = np.zeros(_HIGH, dtype=np.int64)
    size = 0
    for part in bits():
        coarse += np.bincount(part >> _LOW_BITS, minlength=_HIGH)
        size += part.size
    ranks = ranks_of(size)
    positions = size - ranks
    below = np.cumsum(coarse)
    bins = np.searchsorted(below, positions, side="right")
    wanted = np.unique(bins)
    slot = np.full(_HIGH, -1, dtype=np.int64)
    slot[wanted] = np.arange(wanted.size)
    fine = np.zeros(wanted.size * _LOW, dtype=np.int64)
    for part in bits():
        slots = slot[part >> _LOW_BITS]
        chosen = slots >= 0
        cells, counts = np.unique(
            slots[chosen] * _LOW + (part[chosen] & (_LOW - 1)), return_counts=True
        )
        fine[cells] += counts
    fine_below = np.cumsum(fine.reshape(wanted.size, _LOW), axis=1)
    found = np.empty(ranks.size, dtype=np.uint32)
    for i, (position, bin_) in enumerate(zip(positions, bins, strict=True)):
        inside = position - (below[bin_] - coarse[bin_])
        low = int(np.searchsorted(fine_below[slot[bin_]], inside, side="right"))
        found[i] = (int(bin_) << _LOW_BITS) | low
    return found.view(np.float32)
