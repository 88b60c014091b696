"""Descents: what candidates of a batch were made of, noted while it is made. Nothing is decided by them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.origin import CROSSED, MUTATED, Origin
from evomerge.search_space import Genome


@dataclass(frozen=True, eq=False)
class Descent:
    """An origin whose parents are genomes: an optimizer does not know what its candidates are called.

    `parents`: float64 [genes] each.
    """

    origin: Origin
    parents: tuple[np.ndarray, ...] = ()


def of(how: str, *parents: np.ndarray) -> Descent:
    """A descent without numbers of its own."""
    return Descent(Origin(how=how), parents)


def for_preference(how: str, preference: Iterable[float]) -> Descent:
    """The descent of what was made for a preference."""
    return Descent(Origin(how=how, preference=tuple(round(float(weight), 6) for weight in preference)))


def children(parents: np.ndarray, crossed: np.ndarray) -> list[Descent]:
    """Descents of couples' children, which are mutated yet: all first ones, then all second ones.

    A child that is one of its parents has this one alone. Both arguments are float64 [2, couples, genes].
    """
    same = (crossed[:, None] == parents[None]).all(axis=3)
    found = []
    for own in same:
        for mother, father, is_mother, is_father in zip(*parents, *own, strict=True):
            if is_mother or is_father:
                found.append(of(MUTATED, mother if is_mother else father))
            else:
                found.append(of(CROSSED, mother, father))
    return found


class Descents:
    """Genomes of a batch with their descents; the first that is noted of a genome holds."""

    def __init__(self) -> None:
        self._known: dict[Genome, Descent] = {}

    def begin(self) -> None:
        """Forget the last batch."""
        self._known = {}

    def note(self, points: np.ndarray, descents: Descent | Sequence[Descent | None]) -> None:
        """Of grid points, float64 [n, genes], one for each or one for all."""
        each = [descents] * len(points) if isinstance(descents, Descent) else descents
        for row, descent in zip(points.tolist(), each, strict=True):
            if descent is not None:
                self._known.setdefault(tuple(row), descent)

    def note_rest(self, batch: Iterable[Genome], descent: Descent) -> None:
        """Of the genomes of a batch of which nothing is known."""
        for genome in batch:
            self._known.setdefault(genome, descent)

    def of(self, batch: Iterable[Genome]) -> list[Descent | None]:
        """What is known of the genomes of a batch."""
        return [self._known.get(genome) for genome in batch]
