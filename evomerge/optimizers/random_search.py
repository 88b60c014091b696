"""Random search on the grid: the baseline that every optimizer must beat.

Bergstra and Bengio (2012), "Random Search for Hyper-Parameter Optimization". With `structure: global`
all genes of one expert and coefficient share a value, which is a strong baseline for merges: most of
what one coefficient per expert can reach is found by 100 random points. Paths of layers are then random
edits of the layers in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from evomerge.objectives.objective import Complete, Outcome
from evomerge.objectives.origin import GIVEN, RANDOM
from evomerge.optimizers.descent import Descent, Descents, of
from evomerge.optimizers.grid import Grid, Turns, add_new, leftovers
from evomerge.optimizers.path_operators import start_rows
from evomerge.optimizers.settings import RandomSettings
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import Gene, Genome

_TRIES = 20


class RandomSearch:
    """Uniform on the grid, in batches or (`steady`) one by one; see `Optimizer`. Asks `initial` first.

    When all points of the structure `global` were asked, it goes on with independent ones.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        settings: RandomSettings = RandomSettings(),
        *,
        steady: bool = False,
    ) -> None:
        self._global = settings.structure == "global"
        self._grid = Grid(genes)
        self._turns = Turns(objectives, whole=not steady)
        self._steady = steady
        self._population = 1 if steady else population
        self._rng = np.random.default_rng(seed)
        self._told = hashlib.sha256()
        self._first = [tuple(genome) for genome in initial]
        self._descents = Descents()
        self._batch: list[Genome] = []

    def ask(self) -> list[Genome]:
        """A batch of new genomes."""
        self._turns.may_ask()
        self._descents.begin()
        batch: list[Genome] = []
        limit = self._population
        if self._first:
            first = self._grid.snap(np.array(self._first, dtype=np.float64))
            self._descents.note(first, of(GIVEN))
            add_new(batch, first, 1 if self._steady else len(first), self._turns)
            # In steady state those already asked are passed over when the rest is looked at again.
            self._first = self._first if self._steady and batch else []
            limit = max(self._population, len(batch))
        for spread in ([True] if self._global else []) + [False]:
            for _ in range(_TRIES):
                if len(batch) < limit:
                    add_new(batch, self._draw(limit - len(batch), spread), limit, self._turns)
        if len(batch) < limit:
            batch += leftovers(self._grid, self._turns, batch, limit - len(batch), self._rng)
        self._descents.note_rest(batch, of(RANDOM))
        self._batch = batch
        return self._turns.asked(batch)

    def descents(self) -> list[Descent | None]:
        """Of the last batch: given or random."""
        return self._descents.of(self._batch)

    def _draw(self, count: int, spread: bool) -> np.ndarray:
        if spread:
            grid = self._grid
            points = grid.global_from_unit(self._rng.random((count, len(grid.groups))))
            if grid.paths is not None:
                none = np.empty((0, len(grid.paths)))
                points[:, grid.path_columns] = start_rows(grid.paths, none, count, self._rng)
            return points
        return self._grid.from_unit(self._rng.random((count, len(self._grid))))

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """Take note of outcomes; they change nothing but the digest."""
        told = self._turns.told(outcomes, numbers)
        for (number, _), outcome in zip(told, outcomes, strict=True):
            values: tuple[float, ...] = ()
            if isinstance(outcome, Complete):
                values = (*outcome.values, *outcome.violations)
            if self._steady:
                self._told.update(np.array([number], dtype="<i8").tobytes())
            self._told.update(np.array([len(values), *values], dtype="<f8").tobytes())

    def state_digest(self) -> str:
        """SHA-256 over everything asked and told and the random state."""
        parts = [self._turns.digest(), self._told.hexdigest(), str(self._rng.bit_generator.state)]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
