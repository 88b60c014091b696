"""MM-MO: batches by expected hypervolume, nudged from weak to strong, screened by Fisher information.

Li, Di, et al. (2025), "It's Morphing Time: Unleashing the Potential of Multiple LLMs via Multi-objective
Optimization", arXiv:2407.00487. One Gaussian process per objective, with a length scale for each gene (above
`SCALES` genes by level, as `surrogate`'s). Twice the batch is chosen by expected hypervolume improvement
(`sequential`). *Weak to strong*: each is crossed with a differential step among the best evaluated. *Fisher
information* of the models, the sum over objectives of one over the predicted variance, decides which half is
evaluated: that of which less is known. *Sparsity*: how far a merge is from the base is one more objective to
minimise; here as far as coefficients say (`distance`), which is known without a model. Each can be switched
off. Unlike in the authors' release, values and reference point have one scale, so that the acquisition is not
zero everywhere; and constraints, of which the paper has none, are modelled as `surrogate` does. Failed and
raced candidates are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evomerge.objectives.origin import MODEL, RANDOM, STEP
from evomerge.optimizers import structured
from evomerge.optimizers.descent import Descent, of
from evomerge.optimizers.distance import Distance
from evomerge.optimizers.gaussian import Data, Fits, Levels, Name, Process, fitted_at, one_thread
from evomerge.optimizers.grid import Grid, as_rows
from evomerge.optimizers.improvement import greedy
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.sequential import Effort, Improvement, best_points
from evomerge.optimizers.settings import MmmoSettings
from evomerge.optimizers.told import Told, learned
from evomerge.search_space import Gene, Genome

RAW = 512
"""Points that the search for the largest acquisition begins with, half of them around the front."""

NUMBERS = 16_000_000
"""Genes of all these points at most, so that a search over rows has fewer of them."""

EFFORT = Effort()

SCALES = 200
"""Genes up to which each has a length scale of its own: to fit so many takes long, and memory."""

POOL, DRAWS = 160, 16
"""Points, and draws of the models at all of them, of `acquisition: pool`."""

BEST = 5
"""Evaluated points that steps are made of, those with the least sum of objectives."""

SCALE = 0.5
"""Of a differential step."""

LEAST = 4


class Mmmo:
    """A proposing function (see `proposals`); what it keeps between calls only saves time."""

    def __init__(
        self, genes: Sequence[Gene], initial: Sequence[Genome], acquisition: str = "refined"
    ) -> None:
        self._grid = Grid(genes)
        self._refines = acquisition == "refined"
        self._initial = frozenset(map(tuple, self._grid.snap(as_rows(initial, len(genes))).tolist()))
        self._share = 1.0
        self.features: Callable[[np.ndarray], np.ndarray] = self._unit
        sizes = [1] * len(genes)
        self.sparsity: Callable[[np.ndarray], np.ndarray] = (
            Distance(genes) if self._refines else self._mean_size
        )
        if not self._refines:
            self._share, sizes = np.sqrt(len(genes)), [len(genes)]
        elif len(genes) > SCALES:
            levels = Levels(self._grid)
            self.features, sizes = levels, levels.sizes
        self._fits = Fits(sizes)
        self.descents: Sequence[Descent | None] = ()

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        settings: MmmoSettings = asked.settings
        known = self._learned(asked, len(asked.told))
        tried = [*(genome for genome, _ in asked.told), *asked.pending]
        drawn = sum(genome not in self._initial for genome in tried) if self._refines else len(tried)
        if drawn < settings.start or known is None or len(known.genomes) < LEAST:
            self.descents = [of(RANDOM)] * asked.count
            return self._grid.from_unit(asked.rng.random((asked.count, len(self._grid))))
        with one_thread():
            at = (fitted_at(len(asked.told)), len(asked.told))
            before = self._learned(asked, at[0])
            models, bounds = self.models(known, before, at), self.bounds(known, before, at)
            acquire = self._acquire if self._refines else self._acquire_from_pool
            points = acquire(asked, known, models, bounds)
            descents = [of(MODEL)] * len(points)
            if settings.weak_to_strong:
                points, descents = self._strengthen(points, known, asked.rng)
            if settings.fisher:
                order = np.argsort(information(models, self.features(points)), kind="stable")
                points, descents = points[order], [descents[index] for index in order]
            if bounds:
                # Steps know no bounds, and least is known where nobody looks because bounds are broken there.
                order = np.argsort(self._excess(bounds, points), kind="stable")
                points, descents = points[order], [descents[index] for index in order]
            self.descents = descents[: asked.count]
            return points[: asked.count]

    def _learned(self, asked: Asked, count: int) -> Told | None:
        """Of the first so many that were told."""
        told = asked.told[:count]
        return learned(told, self._initial, len(self._grid), asks_again=asked.asks_again)

    def _unit(self, genomes: np.ndarray) -> np.ndarray:
        """Genomes as features, float64 [n, genes] within [0, 1], with one length scale by a root of them."""
        span = self._grid.high - self._grid.low
        found: np.ndarray = (genomes - self._grid.low) / span / self._share
        return found

    def models(self, known: Told, before: Told | None, at: tuple[int, int]) -> list[Process]:
        """One process for each objective; arguments as of `Fits.process`."""
        now, then = self._data(known), {} if before is None else self._data(before)
        return [self._fits.process(name, data, then.get(name), at) for name, data in now.items()]

    def bounds(self, known: Told, before: Told | None, at: tuple[int, int]) -> list[Process]:
        """One process for each bound that anything was seen of: above 0 where it is broken; as `models`."""
        features, then = self.features(known.genomes), {} if before is None else before.bounds
        early = None if before is None else self.features(before.genomes)
        return [
            self._fits.process(
                ("bound", k),
                (features, column),
                (early, then[k]) if early is not None and k in then else None,
                at,
            )
            for k, column in known.bounds.items()
        ]

    def _excess(self, bounds: Sequence[Process], genomes: np.ndarray) -> np.ndarray:
        """How much bounds are expected to be broken, float64 [n]."""
        features = self.features(genomes)
        found: np.ndarray = np.sum([np.maximum(b.expect(features), 0.0) for b in bounds], axis=0)
        return found

    def _data(self, known: Told) -> dict[Name, Data]:
        features = self.features(known.genomes)
        columns = enumerate(known.values.T)
        return {(k, known.used[k]): (features, column) for k, column in columns}

    def _mean_size(self, genomes: np.ndarray) -> np.ndarray:
        """Mean size of the experts' coefficients as a share of the largest, float64 [n]."""
        own = np.array([gene.input != "*" for gene in self._grid.genes])
        own = own if own.any() else ~own
        most = np.maximum(np.abs(self._grid.low), np.abs(self._grid.high))[own]
        found: np.ndarray = (np.abs(genomes[:, own]) / np.where(most > 0.0, most, 1.0)).mean(axis=1)
        return found

    def _acquire(
        self, asked: Asked, known: Told, models: Sequence[Process], bounds: Sequence[Process] = ()
    ) -> np.ndarray:
        """Twice as many points as are wanted, of most expected hypervolume improvement."""
        raw = max(min(RAW, NUMBERS // len(self._grid)), 16)
        pool = self._pool(asked, known, raw)
        sizes = [self.sparsity] if asked.settings.sparsity else []
        most = len(asked.pending) + 2 * asked.count
        improvement = Improvement(
            models,
            bounds,
            self.features,
            sizes,
            self._front(known, asked.settings.sparsity),
            most,
            EFFORT.draws,
            asked.rng,
        )
        for row in as_rows(asked.pending, len(self._grid)):
            improvement.add(row[None])
        taken = {genome for genome, _ in asked.told} | set(asked.pending)
        first = pool[:0]
        if bounds and not known.keep.any():
            # Nothing keeps all bounds yet: first what is expected to break them least.
            first = pool[np.argsort(self._excess(bounds, pool), kind="stable")[: asked.count]]
            taken |= set(map(tuple, first.tolist()))
        wanted = 2 * asked.count - len(first)
        found = best_points(improvement, self._grid, pool, wanted, taken, EFFORT, asked.rng)
        return np.concatenate([first, found])

    def _front(self, known: Told, sparsity: bool) -> np.ndarray:
        """What is known of what keeps all bounds, float64 [n, objectives], with sparsity as the last."""
        told: np.ndarray = known.values[known.keep]
        if sparsity:
            told = np.column_stack([told, self.sparsity(known.genomes[known.keep])])
        return told

    def _pool(self, asked: Asked, known: Told, count: int) -> np.ndarray:
        """So many points that nobody asked for, half of them around the front; float64 [n, genes]."""
        grid, rng = self._grid, asked.rng
        front = known.genomes[known.best]
        spread = grid.from_unit(rng.random((count // 2, len(grid))))
        near = [
            structured.mutate(grid, front[rng.integers(len(front))], "layers", rng)
            for _ in range(count // 2)
        ]
        near_rows = grid.snap(np.clip(as_rows(near, len(grid)), grid.low, grid.high))
        taken = {genome for genome, _ in asked.told} | set(asked.pending)
        every = np.unique(np.concatenate([spread, near_rows]), axis=0)
        fresh = [row for row in map(tuple, every.tolist()) if row not in taken]
        return as_rows(fresh, len(grid))

    def _acquire_from_pool(
        self, asked: Asked, known: Told, models: Sequence[Process], bounds: Sequence[Process] = ()
    ) -> np.ndarray:
        """The same as before December 2026: those of a pool, by joint draws at all of it."""
        rng = asked.rng
        pool = self._pool(asked, known, POOL)
        if not len(pool):
            return pool
        pending = as_rows(asked.pending, len(self._grid))
        rows = np.concatenate([pool, pending])
        drawn = self.drawn(models, rows, asked.settings.sparsity, rng)
        for bound in bounds:
            # What breaks a bound in a draw adds nothing there.
            broken = bound.draw(self.features(rows), rng.normal(size=(DRAWS, len(rows)))) > 0.0
            drawn[broken] = np.inf
        told = self._front(known, asked.settings.sparsity)
        chosen = greedy(told, drawn[:, len(pool) :], drawn[:, : len(pool)], 2 * asked.count, rng)
        if bounds and not known.keep.any():
            # Nothing keeps all bounds yet: first what is expected to break them least.
            least = np.argsort(self._excess(bounds, pool), kind="stable")[: asked.count].tolist()
            chosen = list(dict.fromkeys([*least, *chosen]))[: 2 * asked.count]
        return pool[chosen]

    def drawn(
        self, models: Sequence[Process], genomes: np.ndarray, sparsity: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """Joint draws of all objectives, float64 [draws, n, objectives], with sparsity as the last."""
        features = self.features(genomes)
        columns = [model.draw(features, rng.normal(size=(DRAWS, len(genomes)))) for model in models]
        if sparsity:
            columns.append(np.broadcast_to(self.sparsity(genomes), columns[0].shape))
        return np.stack(columns, axis=2)

    def _strengthen(
        self, points: np.ndarray, known: Told, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Descent]]:
        """Binomial crossover of each point with a step a + 0.5 (b - c) among the best evaluated."""
        excess = np.maximum(known.broken, 0.0).sum(axis=1)
        order = np.lexsort((known.values.sum(axis=1), excess))[:BEST]
        grid, found = self._grid, points.copy()
        descents = []
        for row in found:
            a, b, c = known.genomes[order[rng.permutation(len(order))[:3]]]
            step = np.clip(a + SCALE * (b - c), grid.low, grid.high)
            taken = rng.random(len(row)) < 0.5
            taken[rng.integers(len(row))] = True
            row[taken] = step[taken]
            descents.append(of(STEP, a, b, c))
        return grid.snap(found), descents


def information(models: Sequence[Process], features: np.ndarray) -> np.ndarray:
    """Fisher information as the authors take it: the sum over objectives of 1 / variance, float64 [n]."""
    found: np.ndarray = np.sum([1.0 / model.predict(features)[1] ** 2 for model in models], axis=0)
    return found
