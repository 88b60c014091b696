"""NSGA-II evolves on a model of the objectives; the campaign pays for the winners.

One Gaussian process per objective (`gaussian`) is conditioned on all that was told; with four objectives and
more each gene has a length scale of its own there, as MM-MO's have (`mmmo`). NSGA-II (`nsga2`, with its
operators for experts and layers) runs cheap generations on the model; of what it finds those points are
asked, one after the other, that add most hypervolume in expectation over joint draws of the model, given what
is pending and what was chosen before (`improvement`). With a focus, a point's gain counts the more, the
better it is under the augmented Chebyshev rule for that preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.forecast import Forecast
from evomerge.objectives.objective import Complete, Failed, Outcome, Raced
from evomerge.objectives.origin import MODEL, MUTATED, START
from evomerge.objectives.pareto import chebyshev, non_dominated
from evomerge.optimizers import structured
from evomerge.optimizers.descent import Descent, of
from evomerge.optimizers.gaussian import (
    Data,
    Fits,
    Genes,
    Levels,
    Name,
    Process,
    fitted_at,
    one_thread,
)
from evomerge.optimizers.grid import Grid, as_rows
from evomerge.optimizers.improvement import NEAR, gain_shares, greedy
from evomerge.optimizers.nsga2 import Nsga2
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import Nsga2Settings, SurrogateSettings
from evomerge.optimizers.told import Told, learned, of_kind
from evomerge.search_space import Gene, Genome

DRAWS = 24
POOL = 120
"""Points at most among which a batch is chosen."""

LEAST = 4
"""Complete candidates below which there is no model."""

GUIDE = 3.0
"""With a focus, what the Chebyshev function counts beside each objective in the search on the model."""

MOST_AHEAD = 2.0
"""The most of it, in `NEAR`, that being better than the best known counts."""

MANY_OBJECTIVES = 4
"""Objectives from which on each gene has a length scale of its own, if nothing else is stated."""

MOST_SCALES = 50
"""Genes up to which it can have one: with more, few evaluations say no more by gene than by level."""


Results = Sequence[tuple[Genome, Outcome]]

Others = Sequence[tuple[int, Complete]]
"""Candidates that lie nowhere in a space, each with how many of those that do were told before it."""


def has_scales_by_gene(scales: str, genes: int, objectives: int) -> bool:
    """Whether genes have length scales of their own, by `SurrogateSettings.scales`.

    By level what tells one place from another has one scale for all. That asks little of few evaluations, but
    cannot tell the genes by which objectives are traded from those by which all get better; of the former
    there are the more, the more objectives there are. With two and three, asks are those of earlier versions.
    """
    if genes > MOST_SCALES or scales == "by_level":
        return False
    return scales == "by_gene" or objectives >= MANY_OBJECTIVES


class Surrogate:
    """A proposing function (see `proposals`); what it keeps between calls only saves time.

    Attributes:
        forecast: of the points that were last proposed; None if no model chose them.
        descents: of the same points, what they were made of.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        initial: Sequence[Genome],
        seed: int,
        focus: Sequence[float] | None = None,
        *,
        steady: bool,
        by_gene: bool = False,
    ) -> None:
        """As the fields of `Blueprint`; `initial` are the genomes to start from, among them the experts.

        `by_gene`: whether genes have length scales of their own, as `has_scales_by_gene` says.
        """
        self._grid = Grid(genes)
        self._seed, self._steady = seed, steady
        self._focus = None if focus is None else np.array(focus) / max(focus)
        self._initial = frozenset(map(tuple, self._grid.snap(as_rows(initial, len(genes))).tolist()))
        self._features = Genes(self._grid) if by_gene else Levels(self._grid)
        self._fits = Fits(self._features.sizes)
        self._then: tuple[int, dict[Name, Data]] | None = None
        self._seen: tuple[int, _Seen | None] | None = None
        self._pool: tuple[int, np.ndarray] | None = None
        self._others: Others = ()
        self._asks_again = True
        self.forecast: Forecast | None = None
        self.descents: Sequence[Descent | None] = ()

    def __call__(self, asked: Asked, others: Others = ()) -> np.ndarray:
        """Points, float64 [count, genes]; `others` have a say in what steers."""
        self._others, self._asks_again = others, asked.asks_again
        with one_thread():
            return self._propose(asked)

    def _propose(self, asked: Asked) -> np.ndarray:
        settings: SurrogateSettings = asked.settings
        grid, told = self._grid, asked.told
        seen, self.forecast = self._seen_of(told), None
        if seen is None or len(told) + len(asked.pending) < settings.start:
            return self._start(asked)
        taken = {genome for genome, _ in told} | set(asked.pending)
        pool = self._evolved(told, seen, settings)
        fresh = as_rows([row for row in map(tuple, pool.tolist()) if row not in taken], len(grid))
        chosen = fresh[:0]
        if len(fresh):
            chosen = fresh[self._choose(seen, fresh, as_rows(asked.pending, len(grid)), asked)]
            self.forecast = Forecast.of("genes", self._shares(seen, chosen, asked))
        # More are wanted than NSGA-II left, as in a space of few points: neighbours of the front.
        near, parents = [], []
        for _ in range(asked.count - len(chosen)):
            parents.append(seen.best[asked.rng.integers(len(seen.best))])
            near.append(structured.mutate(grid, parents[-1], "layers", asked.rng))
        self.descents = [of(MODEL)] * len(chosen) + [of(MUTATED, parent) for parent in parents]
        return np.concatenate([chosen, np.clip(as_rows(near, len(grid)), grid.low, grid.high)])

    def expected(self, asked: Asked, points: np.ndarray, others: Others = ()) -> np.ndarray | None:
        """What points [n, genes] would add, as a share of the hypervolume, by draw; None without a model."""
        self._others, self._asks_again = others, asked.asks_again
        with one_thread():
            seen = self._seen_of(asked.told)
            return None if seen is None or not len(points) else self._shares(seen, points, asked)

    def _shares(self, seen: _Seen, points: np.ndarray, asked: Asked) -> np.ndarray | None:
        if not seen.feasible:
            return None
        # Random numbers of its own: what is asked does not depend on whether gains are looked at.
        rng = np.random.default_rng((self._seed, 5, len(asked.told), len(asked.pending)))
        rows = self._features(np.concatenate([points, as_rows(asked.pending, len(self._grid))]))
        drawn, known = self._drawn(seen, rows, rng), self._features(seen.best)
        front = np.stack([model.expect(known) for model in seen.models], axis=1)
        parts = front, drawn[:, len(points) :], drawn[:, : len(points)]
        return gain_shares(*parts, rng, self._focus)

    def _seen_of(self, told: Results) -> _Seen | None:
        if self._seen is None or self._seen[0] != len(told):
            self._seen = (len(told), self._look(told))
        return self._seen[1]

    def _evolved(self, told: Results, seen: _Seen, settings: SurrogateSettings) -> np.ndarray:
        """What NSGA-II found on the models; in steady state on those of some results ago."""
        base = len(told) - len(told) % settings.reuse if self._steady else len(told)
        if self._pool is None or self._pool[0] != base:
            then = seen if base == len(told) else self._look(told[:base])
            if then is None:
                base, then = len(told), seen
            rng = np.random.default_rng((self._seed, 3, base))
            self._pool = (base, self._evolve(then, settings, rng))
        return self._pool[1]

    def _start(self, asked: Asked) -> np.ndarray:
        """One coefficient per expert, blends and jittered copies of the given genomes."""
        given = as_rows(sorted(self._initial), len(self._grid))
        self.descents = [of(START)] * asked.count
        return structured.start_points(self._grid, given, asked.count, asked.rng)

    def _look(self, told: Results) -> _Seen | None:
        """The models of all that was told; None where that is too little."""
        known = self._learned(told)
        if known is None or len(known.genomes) < LEAST:
            return None
        at = (fitted_at(len(told)), len(told))
        if self._then is None or self._then[0] != at[0]:
            early = told[: at[0]]
            before = self._learned(early)
            self._then = (at[0], {} if before is None else self._data(early, before))
        now, then = self._data(told, known), self._then[1]
        processes = {n: self._fits.process(n, data, then.get(n), at) for n, data in now.items()}
        names = [("value", k, known.used[k]) for k in range(known.values.shape[1])]
        models = [processes.pop(name) for name in names]
        raced = of_kind(told, Raced, len(self._grid))
        if len(raced):
            models = [
                self._pessimistic(model, *now[name], raced)
                for model, name in zip(models, names, strict=True)
            ]
        bounds = list(processes.values())
        return _Seen(known.genomes[known.best], bool(known.keep.any()), models, bounds)

    def _learned(self, told: Results) -> Told | None:
        """Steered by what was told up to the last of them, so that as many are always seen as the same."""
        deciding = [outcome for before, outcome in self._others if before < len(told)]
        genes = len(self._grid)
        return learned(told, self._initial, genes, deciding, asks_again=self._asks_again)

    def _data(self, told: Results, known: Told) -> dict[Name, Data]:
        """What each process is given: values of objectives, what breaks a bound (above 0), failures (0.5)."""
        features = self._features(known.genomes)
        found: dict[Name, Data] = {
            ("value", k, known.used[k]): (features, column) for k, column in enumerate(known.values.T)
        }
        for k, column in known.bounds.items():
            found["bound", k] = (features, column)
        failed = of_kind(told, Failed, len(self._grid))
        if len(failed):
            both = np.concatenate([features, self._features(failed)])
            found["failure",] = (both, np.repeat([-0.5, 0.5], [len(features), len(failed)]))
        return found

    def _pessimistic(
        self, model: Process, features: np.ndarray, values: np.ndarray, raced: np.ndarray
    ) -> Process:
        """Raced candidates as a standard deviation worse than the others let expect."""
        rows = self._features(raced)
        mean, deviation = model.predict(rows)
        return model.with_data(
            np.concatenate([features, rows]), np.concatenate([values, mean + deviation])
        )

    def _choose(self, seen: _Seen, fresh: np.ndarray, pending: np.ndarray, asked: Asked) -> list[int]:
        """Indices of the rows of `fresh` to ask."""
        rows = self._features(np.concatenate([fresh, pending]))
        rng = asked.rng
        drawn = self._drawn(seen, rows, rng)
        front = np.empty((0, len(seen.models)))
        if seen.feasible:
            known = self._features(seen.best)
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

    def _drawn(self, seen: _Seen, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Joint draws of the objectives at features [n, ...], float64 [draws, n, objectives]."""
        size = (DRAWS, len(rows))
        drawn = np.stack([m.draw(rows, rng.normal(size=size)) for m in seen.models], axis=2)
        for bound in seen.bounds:
            # What breaks a bound in a draw adds nothing there.
            drawn[bound.draw(rows, rng.normal(size=size)) > 0.0] = np.inf
        return drawn

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
        grid = self._grid
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
            features = self._features(rows)
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
