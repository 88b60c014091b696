"""NSGA-II evolves on a model of the objectives; the campaign pays for the winners.

One Gaussian process per objective (`gaussian`) is conditioned on all that was told. NSGA-II (`nsga2`, with
its operators for experts and layers) runs cheap generations on the model; of what it finds those points are
asked, one after the other, that add most hypervolume in expectation over joint draws of the model, given what
is pending and what was chosen before (greedy qEHVI: Daulton, Balandat and Bakshy 2020, arXiv:2006.05078).
Hypervolume is measured by random scalarizations (Zhang and Golovin 2020, arXiv:2006.04655), whose cost does
not grow exponentially with the number of objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.objectives.pareto import REFERENCE, non_dominated
from evomerge.objectives.steering import steering
from evomerge.optimizers import structured
from evomerge.optimizers.gaussian import (
    FITTED,
    Hyperparameters,
    Levels,
    Process,
    condition,
    fit,
    one_thread,
)
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.nsga2 import Nsga2
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import Nsga2Settings, SurrogateSettings
from evomerge.search_space import Gene, Genome

DIRECTIONS = 256
DRAWS = 24
POOL = 120
"""Points at most among which a batch is chosen."""

LEAST = 4
"""Complete candidates below which there is no model."""

LEAST_NOISE = 1e-6
REFIT = 1.15
"""Length scales are fitted anew when there are so many times more points."""


class Surrogate:
    """A proposing function (see `proposals`); what it keeps between calls only saves time."""

    def __init__(self, genes: Sequence[Gene], initial: int) -> None:
        """`initial`: how many of the first candidates were given, among them the experts."""
        self._initial = initial
        self._grid = Grid(genes)
        self._levels = Levels(self._grid)
        self._fitted: dict[tuple[str | int, ...], tuple[int, Hyperparameters]] = {}
        self._seen: tuple[int, _Seen] | None = None
        self._pool: tuple[int, np.ndarray] | None = None

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        with one_thread():
            return self._propose(asked)

    def _propose(self, asked: Asked) -> np.ndarray:
        settings: SurrogateSettings = asked.settings
        grid = self._grid
        complete = [(genome, o) for genome, o in asked.told if isinstance(o, Complete)]
        known = len(asked.told) + len(asked.pending)
        if known < settings.start or len(complete) < LEAST:
            return self._start(asked)
        if self._seen is None or self._seen[0] != len(asked.told):
            self._seen = (len(asked.told), self._look(asked, complete))
        seen = self._seen[1]
        turn = len(asked.told) // settings.reuse
        if self._pool is None or self._pool[0] != turn:
            self._pool = (turn, _evolve(grid, self._levels, seen, settings, asked.rng))
        taken = {genome for genome, _ in asked.told} | set(asked.pending)
        fresh = _rows([row for row in map(tuple, self._pool[1].tolist()) if row not in taken], grid)
        chosen = fresh[:0]
        if len(fresh):
            chosen = fresh[self._choose(seen, fresh, _rows(asked.pending, grid), asked)]
        # More are wanted than NSGA-II left, as in a space of few points: neighbours of the front.
        parents = seen.genomes[seen.best]
        near = [
            structured.mutate(grid, parents[asked.rng.integers(len(parents))], "layers", asked.rng)
            for _ in range(asked.count - len(chosen))
        ]
        return np.concatenate([chosen, np.clip(_rows(near, grid), grid.low, grid.high)])

    def _start(self, asked: Asked) -> np.ndarray:
        """One coefficient per expert, blends and jittered copies of the given genomes."""
        given = _rows([genome for genome, _ in asked.told[: self._initial]], self._grid)
        return structured.start_points(self._grid, given, asked.count, asked.rng)

    def _look(self, asked: Asked, complete: Sequence[tuple[Genome, Complete]]) -> _Seen:
        """The models of all that was told."""
        genomes = _rows([genome for genome, _ in complete], self._grid)
        outcomes = [outcome for _, outcome in complete]
        steered = steering(outcomes)
        used = tuple(choice.used for choice in steered.choices)
        broken = np.array([outcome.violations for outcome in outcomes], dtype=np.float64)
        keep = np.array([all(v <= 0.0 for v in outcome.violations) for outcome in outcomes])
        given = sum(isinstance(outcome, Complete) for _, outcome in asked.told[: self._initial])
        values = scaled(steered.values, given, keep)
        features = self._levels(genomes)
        models = [
            self._model(("value", k, used[k]), features, column) for k, column in enumerate(values.T)
        ]
        raced = _rows([genome for genome, o in asked.told if isinstance(o, Raced)], self._grid)
        if len(raced):
            models = [
                self._pessimistic(m, features, v, raced) for m, v in zip(models, values.T, strict=True)
            ]
        bounds = []
        for k, column in enumerate(broken.T):
            largest = float(np.abs(column).max())
            if largest > 0.0:
                bounds.append(self._model(("bound", k), features, column / largest))
        failed = _rows([genome for genome, o in asked.told if isinstance(o, Failed)], self._grid)
        if len(failed):
            both = np.concatenate([features, self._levels(failed)])
            fails = np.repeat([-0.5, 0.5], [len(features), len(failed)])
            bounds.append(self._model(("failure",), both, fails))
        best = non_dominated(values[keep]) if keep.any() else np.ones(0, dtype=bool)
        rows = (
            np.flatnonzero(keep)[best]
            if keep.any()
            else np.argsort(broken.sum(axis=1), kind="stable")[:1]
        )
        return _Seen(genomes, rows, bool(keep.any()), models, bounds)

    def _model(self, name: tuple[str | int, ...], features: np.ndarray, values: np.ndarray) -> Process:
        """A process whose length scales are fitted anew now and then."""
        count = len(values)
        known = self._fitted.get(name)
        if known is None or count >= REFIT * known[0]:
            some = (
                np.arange(count) if count <= FITTED else np.linspace(0, count - 1, FITTED).astype(int)
            )
            known = (count, fit(features[some], self._levels.sizes, values[some], LEAST_NOISE))
            self._fitted[name] = known
        return condition(features, self._levels.sizes, values, known[1])

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
            known = self._levels(seen.genomes[seen.best])
            front = np.stack([model.expect(known) for model in seen.models], axis=1)
        chosen = greedy(front, drawn[:, len(fresh) :], drawn[:, : len(fresh)], asked.count, rng)
        if seen.feasible or not seen.bounds:
            return chosen
        # Nothing keeps all bounds yet: first what is expected to break them least.
        excess = np.sum([np.maximum(b.expect(rows[: len(fresh)]), 0.0) for b in seen.bounds], axis=0)
        least = np.argsort(excess, kind="stable")[: (asked.count + 1) // 2].tolist()
        return list(dict.fromkeys([*least, *chosen]))[: asked.count]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known.

    Attributes:
        genomes: complete candidates, float64 [n, genes].
        best: which of them are the front, or break bounds least where all do.
        feasible: whether any keeps all bounds.
        models: one per objective, of scaled values.
        bounds: of what must not be above 0: violations, and 0.5 for a failure against -0.5.
    """

    genomes: np.ndarray
    best: np.ndarray
    feasible: bool
    models: list[Process]
    bounds: list[Process]


def _rows(genomes: Sequence[Sequence[float] | np.ndarray], grid: Grid) -> np.ndarray:
    return np.array(genomes, dtype=np.float64).reshape(-1, len(grid))


def scaled(values: np.ndarray, given: int, keep: np.ndarray) -> np.ndarray:
    """Values with 0 for the best and 1 for the worst of the front and of the first `given`.

    What is worse than that is drawn together by a logarithm: how bad a bad merge is tells nothing about the
    good ones. `keep`: which candidates keep all bounds; the others are left out of the scale.
    """
    good = values[keep] if keep.any() else values
    ideal = good.min(axis=0)
    nadir = np.concatenate([good[non_dominated(good)], values[:given]]).max(axis=0)
    unit = (values - ideal) / np.where(nadir > ideal, nadir - ideal, 1.0)
    found: np.ndarray = np.where(unit > 1.0, 1.0 + np.log1p(np.maximum(unit - 1.0, 0.0)), unit)
    return found


def _evolve(
    grid: Grid, levels: Levels, seen: _Seen, settings: SurrogateSettings, rng: np.random.Generator
) -> np.ndarray:
    """The front that NSGA-II finds on the models, and its last population, float64 [n, genes]."""
    inner = Nsga2(
        grid.genes,
        len(seen.models),
        settings.inner_population,
        int(rng.integers(2**31)),
        [tuple(row) for row in seen.genomes[seen.best].tolist()],
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
                for row, over in zip(predicted.tolist(), broken.tolist(), strict=True)
            ]
        )
        genomes.append(rows)
        values.append(predicted)
        excess.append(broken)
    rows, found, over = np.concatenate(genomes), np.concatenate(values), np.concatenate(excess)
    kept = np.flatnonzero(over <= 0.0)
    best = kept[non_dominated(found[kept])]
    if len(best) > POOL:
        best = best[greedy(found[:0], found[None, :0], found[None, best], POOL, rng)]
    last = np.arange(max(len(rows) - settings.inner_population, 0), len(rows))
    return rows[list(dict.fromkeys([*best.tolist(), *last.tolist()]))]


def greedy(
    front: np.ndarray, pending: np.ndarray, pool: np.ndarray, count: int, rng: np.random.Generator
) -> list[int]:
    """Indices of up to `count` points, each adding most hypervolume to all before it, on average over draws.

    Args:
        front: what is known, float64 [n, objectives], scaled.
        pending: draws of what is pending, float64 [draws, p, objectives].
        pool: draws of the points to choose from, float64 [draws, m, objectives].
        count: how many are wanted.
        rng: draws the directions of the scalarizations.
    """
    objectives = pool.shape[2]
    directions = np.abs(rng.normal(size=(DIRECTIONS, objectives)))
    directions = np.maximum(directions / np.linalg.norm(directions, axis=1, keepdims=True), 1e-3)

    def reach(values: np.ndarray) -> np.ndarray:
        """[..., objectives] to [..., directions]: how far each direction goes until the point's box ends."""
        room = np.maximum(REFERENCE - values, 0.0)
        far = room[..., None, 0] / directions[:, 0]
        for k in range(1, objectives):
            far = np.minimum(far, room[..., None, k] / directions[:, k])
        found: np.ndarray = far**objectives
        return found

    best = np.zeros((len(pool), DIRECTIONS))
    if len(front):
        best = np.maximum(best, reach(front).max(axis=0))
    if pending.shape[1]:
        best = np.maximum(best, reach(pending).max(axis=1))
    offered = reach(pool)
    left = np.ones(pool.shape[1], dtype=bool)
    chosen: list[int] = []
    for _ in range(min(count, len(left))):
        gain = np.maximum(offered - best[:, None, :], 0.0).mean(axis=(0, 2))
        pick = int(np.argmax(np.where(left, gain, -1.0)))
        chosen.append(pick)
        left[pick] = False
        best = np.maximum(best, offered[:, pick])
    return chosen
