"""NSGA-II evolves on a model of the objectives; the campaign pays for the winners.

One Gaussian process per objective (`gaussian`) is conditioned on all that was told. NSGA-II (`nsga2`, with
its operators for experts and layers) runs cheap generations on the model; of what it finds those points are
asked, one after the other, that add most hypervolume in expectation over joint draws of the model, given what
is pending and what was chosen before (`improvement`). With a focus, a point's gain counts the more, the
better it is under the augmented Chebyshev rule for that preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.objectives.pareto import chebyshev, non_dominated
from evomerge.optimizers import structured
from evomerge.optimizers.gaussian import Fits, Levels, Process, one_thread
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.improvement import greedy
from evomerge.optimizers.nsga2 import Nsga2
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import Nsga2Settings, SurrogateSettings
from evomerge.optimizers.told import Told, as_rows, learned, of_kind
from evomerge.search_space import Gene, Genome

DRAWS = 24
POOL = 120
"""Points at most among which a batch is chosen."""

LEAST = 4
"""Complete candidates below which there is no model."""

NEAR = 0.03
"""Of the Chebyshev function: what is so much worse than the best known counts 1/e of what is as good."""

GUIDE = 3.0
"""With a focus, what the Chebyshev function counts beside each objective in the search on the model."""

MOST_AHEAD = 2.0
"""The most of it, in `NEAR`, that being better than the best known counts."""


class Surrogate:
    """A proposing function (see `proposals`); what it keeps between calls only saves time."""

    def __init__(
        self,
        genes: Sequence[Gene],
        initial: Sequence[Genome],
        focus: Sequence[float] | None = None,
    ) -> None:
        """`initial`: the genomes given to start from, among them the experts; `focus`: a preference."""
        self._grid = Grid(genes)
        self._focus = None if focus is None else np.array(focus) / max(focus)
        self._initial = frozenset(map(tuple, self._grid.snap(as_rows(initial, len(genes))).tolist()))
        self._levels = Levels(self._grid)
        self._fits = Fits()
        self._seen: tuple[int, _Seen] | None = None
        self._pool: tuple[int, np.ndarray] | None = None

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        with one_thread():
            return self._propose(asked)

    def _propose(self, asked: Asked) -> np.ndarray:
        settings: SurrogateSettings = asked.settings
        grid = self._grid
        if self._seen is None or self._seen[0] != len(asked.told):
            known = learned(asked.told, self._initial, len(grid))
            if len(asked.told) + len(asked.pending) < settings.start or known is None:
                return self._start(asked)
            if len(known.genomes) < LEAST:
                return self._start(asked)
            self._seen = (len(asked.told), self._look(asked, known))
        seen = self._seen[1]
        turn = len(asked.told) // settings.reuse
        if self._pool is None or self._pool[0] != turn:
            self._pool = (turn, self._evolve(seen, settings, asked.rng))
        taken = {genome for genome, _ in asked.told} | set(asked.pending)
        fresh = as_rows(
            [row for row in map(tuple, self._pool[1].tolist()) if row not in taken], len(grid)
        )
        chosen = fresh[:0]
        if len(fresh):
            chosen = fresh[self._choose(seen, fresh, as_rows(asked.pending, len(grid)), asked)]
        # More are wanted than NSGA-II left, as in a space of few points: neighbours of the front.
        near = [
            structured.mutate(grid, seen.best[asked.rng.integers(len(seen.best))], "layers", asked.rng)
            for _ in range(asked.count - len(chosen))
        ]
        return np.concatenate([chosen, np.clip(as_rows(near, len(grid)), grid.low, grid.high)])

    def _start(self, asked: Asked) -> np.ndarray:
        """One coefficient per expert, blends and jittered copies of the given genomes."""
        given = as_rows(sorted(self._initial), len(self._grid))
        return structured.start_points(self._grid, given, asked.count, asked.rng)

    def _look(self, asked: Asked, known: Told) -> _Seen:
        """The models of all that was told."""
        features = self._levels(known.genomes)
        models = [
            self._model(("value", k, known.used[k]), features, column)
            for k, column in enumerate(known.values.T)
        ]
        raced = of_kind(asked.told, Raced, len(self._grid))
        if len(raced):
            models = [
                self._pessimistic(model, features, column, raced)
                for model, column in zip(models, known.values.T, strict=True)
            ]
        bounds = []
        for k, column in enumerate(known.broken.T):
            largest = float(np.abs(column).max())
            if largest > 0.0:
                bounds.append(self._model(("bound", k), features, column / largest))
        failed = of_kind(asked.told, Failed, len(self._grid))
        if len(failed):
            both = np.concatenate([features, self._levels(failed)])
            fails = np.repeat([-0.5, 0.5], [len(features), len(failed)])
            bounds.append(self._model(("failure",), both, fails))
        return _Seen(known.genomes[known.best], bool(known.keep.any()), models, bounds)

    def _model(self, name: tuple[str | int, ...], features: np.ndarray, values: np.ndarray) -> Process:
        return self._fits.process(name, features, self._levels.sizes, values)

    def _pessimistic(
        self, model: Process, features: np.ndarray, values: np.ndarray, raced: np.ndarray
    ) -> Process:
        """Raced candidates as a standard deviation worse than the others let expect."""
        rows = self._levels(raced)
        mean, deviation = model.predict(rows)
        return model.with_data(
            np.concatenate([features, rows]), np.concatenate([values, mean + deviation])
        )

    def _choose(self, seen: _Seen, fresh: np.ndarray, pending: np.ndarray, asked: Asked) -> list[int]:
        """Indices of the rows of `fresh` to ask."""
        rows = self._levels(np.concatenate([fresh, pending]))
        rng, count = asked.rng, len(rows)
        drawn = np.stack([m.draw(rows, rng.normal(size=(DRAWS, count))) for m in seen.models], axis=2)
        for bound in seen.bounds:
            # What breaks a bound in a draw adds nothing there.
            drawn[bound.draw(rows, rng.normal(size=(DRAWS, count))) > 0.0] = np.inf
        front = np.empty((0, len(seen.models)))
        if seen.feasible:
            known = self._levels(seen.best)
            front = np.stack([model.expect(known) for model in seen.models], axis=1)
        offered = drawn[:, : len(fresh)]
        chosen = greedy(
            front, drawn[:, len(fresh) :], offered, asked.count, rng, self._nearness(front, offered)
        )
        if seen.feasible or not seen.bounds:
            return chosen
        # Nothing keeps all bounds yet: first what is expected to break them least.
        excess = np.sum([np.maximum(b.expect(rows[: len(fresh)]), 0.0) for b in seen.bounds], axis=0)
        least = np.argsort(excess, kind="stable")[: (asked.count + 1) // 2].tolist()
        return list(dict.fromkeys([*least, *chosen]))[: asked.count]

    def _guided(self, values: np.ndarray) -> np.ndarray:
        """Objectives that draw NSGA-II to a focus, float64 [n, objectives]: a bounded price for leaving it.

        Guided dominance (Branke, Kaussler and Schmeck 2001), with the Chebyshev function as the guide.
        """
        if self._focus is None:
            return values
        return values + GUIDE * chebyshev(values, self._focus)[:, None]

    def _nearness(self, front: np.ndarray, offered: np.ndarray) -> np.ndarray | None:
        """What a gain counts, by how much better than the best of a front a point is for the focus.

        None without a focus; otherwise float64 [draws, m] for points [draws, m, objectives].
        """
        if self._focus is None:
            return None
        possible = np.isfinite(offered).all(axis=2)
        value = chebyshev(np.where(possible[..., None], offered, 0.0), self._focus)
        known = chebyshev(front, self._focus) if len(front) else value[possible]
        if not len(known):
            return None
        ahead = np.minimum((known.min() - value) / NEAR, MOST_AHEAD)
        return np.where(possible, np.exp(ahead), 0.0)

    def _evolve(self, seen: _Seen, settings: SurrogateSettings, rng: np.random.Generator) -> np.ndarray:
        """The front that NSGA-II finds on the models, and its last population, float64 [n, genes]."""
        grid, levels = self._grid, self._levels
        inner = Nsga2(
            grid.genes,
            len(seen.models),
            settings.inner_population,
            int(rng.integers(2**31)),
            [tuple(row) for row in seen.best.tolist()],
            Nsga2Settings(global_generations=0.0),
        )
        genomes, values, excess = [], [], []
        for _ in range(settings.generations):
            batch = inner.ask()
            if not batch:
                break
            rows = np.array(batch)
            features = levels(rows)
            predicted = np.stack([model.expect(features) for model in seen.models], axis=1)
            broken = np.zeros(len(rows))
            for bound in seen.bounds:
                broken += np.maximum(bound.expect(features), 0.0)
            zeros = (0.0,) * len(seen.models)
            inner.tell(
                [
                    Complete(tuple(row), zeros, (over,))
                    for row, over in zip(self._guided(predicted).tolist(), broken.tolist(), strict=True)
                ]
            )
            genomes.append(rows)
            values.append(predicted)
            excess.append(broken)
        rows, found, over = np.concatenate(genomes), np.concatenate(values), np.concatenate(excess)
        kept = np.flatnonzero(over <= 0.0)
        best = kept[non_dominated(found[kept])]
        if len(best) > POOL:
            offered = found[None, best]
            near = self._nearness(found[:0], offered)
            best = best[greedy(found[:0], found[None, :0], offered, POOL, rng, near)]
        last = np.arange(max(len(rows) - settings.inner_population, 0), len(rows))
        return rows[list(dict.fromkeys([*best.tolist(), *last.tolist()]))]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known.

    Attributes:
        best: genomes of the front, or of what breaks bounds least where all do; float64 [n, genes].
        feasible: whether any keeps all bounds.
        models: one per objective, of scaled values.
        bounds: of what must not be above 0: violations, and 0.5 for a failure against -0.5.
    """

    best: np.ndarray
    feasible: bool
    models: list[Process]
    bounds: list[Process]
