"""CMA-ES on weighted sums of the objectives, as mergekit-evolve searches; by the library `cma`.

Hansen (2016), "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772; above `DIAGONAL` genes with a
diagonal covariance (Ros and Hansen 2008). One strategy for each of several weight vectors, all from the
uniform average by the method's defaults; they ask in turn, each its whole generation. A strategy ranks its
generation: what breaks constraints comes after what keeps them, then what was raced, then what failed.

Paths of layers are searched as by Akiba et al. (2024, arXiv:2403.13187): numbers behind the genes, those of
the layers in order two deviations to the side where they are taken, the others two to the other; a strategy
learns from its own numbers, of which genes show only what they round to.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cma
import numpy as np

from evomerge.objectives.objective import Outcome, Raced
from evomerge.objectives.origin import STRATEGY
from evomerge.optimizers.descent import Descent, for_preference
from evomerge.optimizers.gaussian import one_thread
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import CmaEsSettings
from evomerge.optimizers.told import learned
from evomerge.search_space import Gene, Genome

DIAGONAL = 200

_LARGEST = 1e6
"""More than any sum of scaled values; ranks alone count."""


@dataclass
class _Strategy:
    """One weight vector's: what it asked and was not told of, and what it waits to ask."""

    weights: np.ndarray
    evolution: Any
    queue: list[np.ndarray] = field(default_factory=list)
    open: set[Genome] = field(default_factory=set)
    told: list[tuple[Genome, Outcome]] = field(default_factory=list)


class CmaEs:
    """A proposing function (see `proposals`) whose state is made of what it was told, in order."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        seed: int,
        initial: Sequence[Genome],
        settings: Any,
    ) -> None:
        self._genes = tuple(genes)
        self._initial = {tuple(g.snap(v) for g, v in zip(genes, row, strict=True)) for row in initial}
        self._low = np.array([gene.low for gene in genes])
        self._span = np.array([gene.high for gene in genes]) - self._low
        self._rng = np.random.default_rng((seed, 1))
        self._seen = 0
        self._turn = 0
        self._owner: dict[Genome, _Strategy] = {}
        self._offered: dict[Genome, _Strategy] = {}
        self._paths = next((gene.paths for gene in genes if gene.paths is not None), None)
        self._grid = Grid(genes)
        self._behind: dict[Genome, np.ndarray] = {}
        self.descents: Sequence[Descent | None] = ()
        start = (self._average(settings.others) - self._low) / self._span
        if self._paths is not None and self._paths.form == "indicator":
            slots = np.array([gene.coefficient == "path" for gene in genes])
            aside = min(2.0 * settings.sigma, 0.5)
            start[slots] = 0.5 + np.where(start[slots] > 0.5, aside, -aside)
        vectors = weight_vectors(int(settings.weights), objectives, self._rng)
        self._strategies = [_Strategy(w, self._evolution(start, settings)) for w in vectors]

    def _average(self, others: str) -> np.ndarray:
        """1 / experts for weights, for `others` (see `CmaEsSettings`) defaults; float64 [genes]."""
        experts = {gene.input for gene in self._genes if gene.input != "*"}
        found = []
        for gene in self._genes:
            value: float | None = None
            if gene.input != "*" and (gene.coefficient == "weight" or others == "as_weights"):
                value = 1.0 / len(experts)
            elif others == "default":
                value = gene.default
            middle = (gene.low + gene.high) / 2.0
            found.append(middle if value is None else min(max(value, gene.low), gene.high))
        if self._paths is not None:
            found[-len(self._paths) :] = self._paths.spell(self._paths.home)
        return np.array(found)

    def _evolution(self, start: np.ndarray, settings: CmaEsSettings) -> Any:
        count = max(len(start), 2)  # the library knows no search of one number: a second one idles
        point = np.full(count, 0.5)
        point[: len(start)] = start
        options = {
            "bounds": [0.0, 1.0],
            "randn": lambda *shape: self._rng.standard_normal(shape),
            "seed": np.nan,
            "verbose": -10,
            "CMA_diagonal": count > DIAGONAL,
            "termination_callback": None,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cma.CMAEvolutionStrategy(point, settings.sigma, options)

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._belong(asked)
            self._learn(asked)
            points = [self._next() for _ in range(asked.count)]
            offered = [self._offered[tuple(point.tolist())] for point in points]
            self.descents = [for_preference(STRATEGY, strategy.weights) for strategy in offered]
        found: np.ndarray = self._low + np.array(points)[:, : len(self._low)] * self._span
        return found

    def adopt(self, proposed: Sequence[Genome], recorded: Sequence[Genome]) -> None:
        """Recorded genomes belong to the strategies that proposed in their place."""
        offers = self._offers_of(proposed)
        for offer, genome in zip(offers, recorded, strict=False):
            self._belongs(genome, offer)
        self._offered = {}

    def _belong(self, asked: Asked) -> None:
        """Whose each genome is that was asked since."""
        known = (*(genome for genome, _ in asked.told[self._seen :]), *asked.pending)
        fresh = [genome for genome in dict.fromkeys(known) if genome not in self._owner]
        for genome, offer in zip(fresh, self._offers_of(fresh), strict=True):
            self._belongs(genome, offer)
        self._offered = {}

    def _belongs(self, genome: Genome, offer: Genome | None) -> None:
        if offer is None:
            return
        self._owner[genome] = self._offered[offer]
        self._owner[genome].open.add(genome)
        if self._paths is not None:
            self._behind[genome] = np.array(offer)

    def _offers_of(self, genomes: Sequence[Genome]) -> list[Genome | None]:
        """What was offered and became each genome: with paths exactly that, else within a step of it."""
        if not self._offered or not genomes:
            return [None] * len(genomes)
        offers = list(self._offered)
        if self._paths is not None:
            behind = np.array(offers)[:, : len(self._low)]
            rows = self._grid.snap(self._low + behind * self._span).tolist()
            meant = {tuple(row): offer for row, offer in zip(rows, offers, strict=True)}
            return [meant.get(genome) for genome in genomes]
        steps = max(gene.step / (gene.high - gene.low) for gene in self._genes)
        found: list[Genome | None] = []
        for genome in genomes:
            unit = (np.array(genome) - self._low) / self._span
            apart = np.abs(np.array(offers)[:, : len(unit)] - unit).max(axis=1)
            nearest = int(np.argmin(apart))
            found.append(offers[nearest] if apart[nearest] <= steps else None)
        return found

    def _learn(self, asked: Asked) -> None:
        """Tell each strategy of its generation once all of it is told."""
        for genome, outcome in asked.told[self._seen :]:
            strategy = self._owner.get(genome)
            if strategy is not None:
                strategy.open.discard(genome)
                strategy.told.append((genome, outcome))
        self._seen = len(asked.told)
        for strategy in self._strategies:
            full = strategy.evolution.popsize
            if not strategy.queue and not strategy.open and len(strategy.told) >= max(full // 2, 2):
                sums = self._sums(asked, strategy)
                unit = (np.array([genome for genome, _ in strategy.told]) - self._low) / self._span
                points = np.full((len(unit), max(len(self._low), 2)), 0.5)
                points[:, : len(self._low)] = unit
                for row, (genome, _) in enumerate(strategy.told):
                    if genome in self._behind:
                        points[row] = self._behind.pop(genome)
                strategy.evolution.tell(list(points), sums)
                strategy.told = []

    def _sums(self, asked: Asked, strategy: _Strategy) -> list[float]:
        """What each of a generation is worth, less is better."""
        known = learned(asked.told, self._initial, len(self._genes), asks_again=asked.asks_again)
        found: dict[Genome, float] = {}
        if known is not None:
            excess = np.maximum(known.broken, 0.0).sum(axis=1)
            sums = np.where(excess > 0.0, _LARGEST * (1.0 + excess), known.values @ strategy.weights)
            found = dict(zip(map(tuple, known.genomes.tolist()), sums.tolist(), strict=True))
        worst = max(found.values(), default=0.0) + _LARGEST
        return [
            found.get(genome, worst if isinstance(outcome, Raced) else 2.0 * worst)
            for genome, outcome in strategy.told
        ]

    def _next(self) -> np.ndarray:
        """The next point of the strategy whose turn it is, within [0, 1]."""
        for _ in self._strategies:
            strategy = self._strategies[self._turn % len(self._strategies)]
            if not strategy.queue and not strategy.open and not strategy.told:
                strategy.queue = list(strategy.evolution.ask())
            if strategy.queue:
                point = strategy.queue.pop(0)
                self._turn += not strategy.queue
                break
            self._turn += 1
        else:
            # All wait for results: one more of the next strategy's generation.
            strategy = self._strategies[self._turn % len(self._strategies)]
            point = strategy.evolution.ask(1)[0]
        offer = tuple(np.asarray(point, dtype=np.float64).tolist())
        self._offered[offer] = strategy
        return np.array(offer)


def weight_vectors(count: int, objectives: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Equal weights, then each objective with four fifths, then drawn ones; each sums to 1."""
    found = [np.full(objectives, 1.0 / objectives)]
    for k in range(objectives if objectives > 1 else 0):
        leaning = np.full(objectives, 0.2 / (objectives - 1))
        leaning[k] = 0.8
        found.append(leaning)
    while len(found) < count:
        found.append(rng.dirichlet(np.ones(objectives)))
    return found[:count]
