"""Preferences: weights of objectives, at least 0 and summing to 1; where on a front one wants to be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np


def lattice(objectives: int) -> Iterator[tuple[float, ...]]:
    """Preferences without end, coarse before fine, none twice.

    The simplex lattices (Das and Dennis 1998) with 1, 2, 3, ... parts, each without the points of those
    before: corners, middles of edges, then ever more between them, within a lattice the most balanced first.
    With one objective there is one preference.
    """
    if objectives == 1:
        yield (1.0,)
        return
    seen: set[tuple[float, ...]] = set()
    for parts in itertools.count(1):
        found = []
        for bars in itertools.combinations(range(parts + objectives - 1), objectives - 1):
            edges = (-1, *bars, parts + objectives - 1)
            counts = [right - left - 1 for left, right in itertools.pairwise(edges)]
            found.append(tuple(round(count / parts, 12) for count in counts))
        new = [point for point in found if point not in seen]
        seen.update(new)
        yield from sorted(new, key=lambda point: (max(point), *(-value for value in point)))


def drawn(count: int, objectives: int, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """Preferences from a symmetric Dirichlet distribution, float64 [count, objectives]."""
    return rng.dirichlet(np.full(objectives, concentration), size=count)


def in_turn(
    first: int, count: int, objectives: int, concentration: float, seed: Sequence[int]
) -> np.ndarray:
    """Preferences number `first` and on of a sequence, float64 [count, objectives].

    Each is drawn as by `drawn`, and its largest weight changes places with that of the objective whose turn
    it is: of as many in a row as there are objectives each is foremost in one.
    """
    found = np.empty((count, objectives))
    for row, number in enumerate(range(first, first + count)):
        (own,) = drawn(1, objectives, concentration, np.random.default_rng((*seed, number)))
        foremost, turn = int(np.argmax(own)), number % objectives
        own[[foremost, turn]] = own[[turn, foremost]]
        found[row] = own
    return found


def pulled(preferences: np.ndarray, focus: Sequence[float] | None, reach: float) -> np.ndarray:
    """Preferences [n, objectives] drawn towards a focus until `reach` of their way from it is left."""
    if focus is None:
        return preferences
    middle = np.asarray(focus, dtype=np.float64)
    near: np.ndarray = middle + reach * (preferences - middle)
    return near


def outwards(objectives: int) -> Iterator[tuple[float, ...]]:
    """The lattice from its middle: this, the middles of edges, the corners, then finer and finer.

    So the first few already span what lies between the experts, which themselves are known.
    """
    middle = (round(1.0 / objectives, 12),) * objectives
    points = lattice(objectives)
    corners = [*itertools.islice(points, objectives)]
    edges = [*itertools.islice(points, objectives * (objectives - 1) // 2)]
    yield middle
    for point in itertools.chain(edges, corners, points):
        if point != middle:
            yield point


def around(objectives: int, focus: Sequence[float] | None, reach: float) -> Iterator[tuple[float, ...]]:
    """From the middle outwards; with a focus that first, then the others drawn towards it."""
    if focus is not None:
        yield tuple(focus)
    for point in outwards(objectives):
        yield tuple(pulled(np.array(point), focus, reach).tolist())
