"""What both forms of NSGA-II are made of: settings, the grid, its turns, a start without parents."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from evomerge.objectives.objective import Complete, Outcome, Raced
from evomerge.objectives.origin import GIVEN, RANDOM, START
from evomerge.optimizers import structured
from evomerge.optimizers.descent import Descent, Descents, of
from evomerge.optimizers.grid import Grid, Turns
from evomerge.optimizers.settings import Nsga2Settings
from evomerge.optimizers.variation import Variation
from evomerge.search_space import Gene, Genome

TRIES = 20
"""How often chance is asked for something new before the rest of the grid is listed."""


FILLS_UP = sys.float_info.min
"""The violation a raced candidate is taken to have: more than where constraints are kept, else least."""


def member(outcome: Outcome) -> tuple[tuple[float, ...], float] | None:
    """Values and sum of violations by which a population compares a candidate; None for a failed one.

    A raced candidate gives way to every complete one, whatever it was measured at, and only fills up a
    population that is not full: without the beaten half of its first generation a search would breed from
    too few.
    """
    if isinstance(outcome, Complete):
        return outcome.values, sum(max(violation, 0.0) for violation in outcome.violations)
    if isinstance(outcome, Raced):
        return (0.0,) * len(outcome.bound), FILLS_UP
    return None


class Genetic:
    """The parts of a genetic search. `whole`: whether it asks and is told whole generations.

    `_given` holds the genomes to ask first, on the grid, float64 [n, genes].
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        population: int,
        initial: Sequence[Genome],
        settings: Nsga2Settings,
        *,
        whole: bool,
    ) -> None:
        self._grid = Grid(genes)
        self._turns = Turns(objectives, whole=whole)
        self._population = population
        self._structured_start = settings.start == "structured"
        self._variation = Variation(self._grid, settings)
        given = np.array(list(initial), dtype=np.float64).reshape(-1, len(self._grid))
        self._given = self._grid.snap(given)
        self._descents = Descents()
        self._batch: list[Genome] = []

    def descents(self) -> list[Descent | None]:
        """Of the batch that was last asked: its parents, or how it was drawn."""
        return self._descents.of(self._batch)

    def _asked(self, batch: list[Genome]) -> list[Genome]:
        """Note a batch as asked; what has no parents by now is random."""
        self._batch = batch
        self._descents.note_rest(batch, of(RANDOM))
        return self._turns.asked(batch)

    def _note_start(self, points: np.ndarray) -> None:
        """Points of a start, float64 [n, genes]: as they were given, or drawn."""
        self._descents.note(self._given, of(GIVEN))
        self._descents.note(points, of(START))

    def _start_points(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Points without parents, float64 [count, genes]."""
        if self._structured_start:
            return structured.start_points(self._grid, self._given, count, rng)
        return self._grid.from_unit(rng.random((count, len(self._grid))))
