"""Auto, the default: a learned front where gradients can be had, then a surrogate around it.

The learned map makes a chart of the space: preference, total scale, and a tilt over depth, a handful of
numbers in which every point is a good merge. After its coarse preferences were evaluated, Gaussian processes
on the chart say where on it the next candidates add most hypervolume (`surrogate`). Where no gradients can be
had, the surrogate searches the genes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from evomerge.objectives.objective import Objective, Outcome
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.learned_front import REACH, LearnedFront
from evomerge.optimizers.optimizer import Note
from evomerge.optimizers.preferences import around
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import AutoSettings, LearnedFrontSettings, SurrogateSettings
from evomerge.optimizers.surrogate import Surrogate
from evomerge.search_space import Gene, Genome

SCALES = (0.6, 1.4)
TILTS = (-0.4, 0.4)
CHART_STEP = 1e-3
FIRST_KNOWN = 100


class Chart:
    """Points near a learned map by few numbers: shares, a scale, a tilt.

    The shares are those of stick breaking: of what is left, how much the next objective is preferred. The
    scale multiplies all weights, the tilt those of the last layers more (above 0) or less than those of the
    first.
    """

    def __init__(self, front: LearnedFront, grid: Grid, objectives: int) -> None:
        self._front, self._grid, self._objectives = front, grid, objectives
        names = [f"share.{k}" for k in range(objectives - 1)]
        bounds = {**dict.fromkeys(names, (0.0, 1.0)), "scale": SCALES, "tilt": TILTS}
        self.genes = tuple(
            Gene(name, low, high, CHART_STEP, "chart", name, ()) for name, (low, high) in bounds.items()
        )
        deepest = max(1, int(grid.depth.max()))
        self._depth = 2.0 * grid.depth / deepest - 1.0
        self._weights = np.array([gene.coefficient == "weight" for gene in grid.genes])

    def points(self, chart: np.ndarray) -> np.ndarray:
        """Float64 [n, genes of the space] for float64 [n, chart genes]."""
        shares, scale, tilt = chart[:, : self._objectives - 1], chart[:, -2, None], chart[:, -1, None]
        left = np.ones(len(chart))
        preferences = np.empty((len(chart), self._objectives))
        for k in range(self._objectives - 1):
            preferences[:, k] = left * shares[:, k]
            left = left * (1.0 - shares[:, k])
        preferences[:, -1] = left
        points = self._front.lesson.map.points(preferences)
        factor = np.where(self._weights, scale * (1.0 + tilt * self._depth), 1.0)
        return self._grid.snap(np.clip(points * factor, self._grid.low, self._grid.high))

    def at(self, preference: Sequence[float]) -> Genome:
        """Where a preference lies, unscaled and level."""
        left, shares = 1.0, []
        for weight in preference[:-1]:
            shares.append(weight / left if left > 0.0 else 0.0)
            left -= weight
        values = (*shares, 1.0, 0.0)
        return tuple(gene.snap(value) for gene, value in zip(self.genes, values, strict=True))


class Auto(LearnedFront):
    """A learned front, then a surrogate on its chart; or the surrogate alone."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        settings: AutoSettings = AutoSettings(),
        *,
        steady: bool = False,
        focus: Sequence[float] | None = None,
    ) -> None:
        learned = LearnedFrontSettings(steps=settings.steps, items=settings.items)
        super().__init__(
            genes, objectives, population, seed, initial, learned, steady=steady, focus=focus
        )
        self._points_first = settings.preferences
        self._inner = SurrogateSettings(
            generations=settings.generations,
            inner_population=settings.inner_population,
            reuse=settings.reuse,
        )
        self._chart = Chart(self, self._grid, len(objectives))
        self._on_chart: dict[Genome, Genome] = {}
        self._by_chart = Surrogate(self._chart.genes, (), seed, focus, steady=steady)
        self._by_genes = Surrogate(genes, initial, seed, focus, steady=steady)

    @property
    def places(self) -> Mapping[Genome, Genome]:
        """Where on its chart the genomes lie that it asked for by it."""
        return self._on_chart

    def notes(self, genomes: Sequence[Genome]) -> list[Note | None]:
        """Places on the chart of those that have one."""
        return [self._on_chart.get(genome) for genome in genomes]

    def adopt(self, genomes: Sequence[Genome], notes: Sequence[Note | None]) -> None:
        """Take genomes with their places; without notes those of the first preferences are known again."""
        if self.lesson.has_taken_steps and not any(notes):
            first = self._first_places(FIRST_KNOWN)
            known = dict(
                zip(map(tuple, self._chart.points(np.array(first)).tolist()), first, strict=True)
            )
            notes = [known.get(genome) for genome in genomes]
        pairs = zip(genomes, notes, strict=True)
        self._on_chart |= {genome: note for genome, note in pairs if note is not None}
        super().adopt(genomes, notes)

    def _first_places(self, count: int) -> list[Genome]:
        """Where preferences lie, from coarse to fine."""
        preferences = around(len(self._objectives), self._focus, REACH)
        return [self._chart.at(w) for _, w in zip(range(count), preferences, strict=False)]

    def _points(self, asked: Asked) -> np.ndarray:
        if not self.lesson.has_taken_steps:
            return self._ask(self._by_genes, self._inner, asked, asked.told, asked.pending, self._genes)
        charted = [(self._on_chart[g], outcome) for g, outcome in asked.told if g in self._on_chart]
        pending = [self._on_chart[g] for g in asked.pending if g in self._on_chart]
        known = {genome for genome, _ in asked.told} | set(asked.pending)
        found: list[Genome] = []
        if len(charted) + len(pending) < self._points_first:
            places = self._first_places(10_000)
        else:
            chosen = self._ask(self._by_chart, self._inner, asked, charted, pending, self._chart.genes)
            places = [tuple(row) for row in Grid(self._chart.genes).snap(chosen).tolist()]
        for place in places:
            (point,) = map(tuple, self._chart.points(np.array([place])).tolist())
            if point not in known:
                known.add(point)
                self._on_chart[point] = place
                found.append(point)
            if len(found) == asked.count:
                break
        return np.array(found).reshape(-1, len(self._genes))

    @staticmethod
    def _ask(
        surrogate: Surrogate,
        settings: SurrogateSettings,
        asked: Asked,
        told: Sequence[tuple[Genome, Outcome]],
        pending: Sequence[Genome],
        genes: tuple[Gene, ...],
    ) -> np.ndarray:
        seen = replace(asked, genes=genes, told=tuple(told), pending=tuple(pending), settings=settings)
        return surrogate(seen)
