"""Points of most expected hypervolume improvement, one after another, each refined where it is found.

Sequential greedy qEHVI (Daulton, Balandat and Bakshy 2020, arXiv:2006.05078): each point adds most, on
average over quasi-random draws of the models, to the front, to what is pending and to the points before it.
Where the paper follows gradients (L-BFGS) from the best of many raw points, here neighbours of the best are
tried, nearer from round to round, on the grid; and hypervolume is by random directions, as in `improvement`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from evomerge.objectives.pareto import REFERENCE
from evomerge.optimizers import structured
from evomerge.optimizers.gaussian import Chain, Process
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.improvement import drawn_directions, reached
from evomerge.search_space import Genome

_ROWS = 32
"""Points at a time, whose arrays then stay in a processor's cache."""

_WIDTH = 0.1
"""Of the first round's steps, as a share of a gene's range; halved from round to round."""


@dataclass(frozen=True)
class Effort:
    """How much is looked at.

    Attributes:
        draws: of the models, a power of two.
        screening: of these, those that raw points are judged by.
        restarts: raw points that are refined.
        rounds: of refining.
        neighbours: of each point in a round.
    """

    draws: int = 128
    screening: int = 32
    restarts: int = 10
    rounds: int = 4
    neighbours: int = 6


class Improvement:
    """What a next point adds to a front and to the points before it.

    Args:
        models: of the objectives.
        bounds: above 0 where a bound is broken; what breaks one in a draw adds nothing there.
        features: genomes float64 [n, genes] as the models see them.
        known: objectives that need no model, float64 [n] of genomes.
        front: float64 [n, objectives], the known ones last.
        most: so many points are added at most.
        draws: of the models.
        rng: of the directions, and what the draws are scrambled by.
    """

    def __init__(
        self,
        models: Sequence[Process],
        bounds: Sequence[Process],
        features: Callable[[np.ndarray], np.ndarray],
        known: Sequence[Callable[[np.ndarray], np.ndarray]],
        front: np.ndarray,
        most: int,
        draws: int,
        rng: np.random.Generator,
    ) -> None:
        self._features, self._known = features, known
        normal = _normal(draws, (most + 1) * (len(models) + len(bounds)), rng)
        blocks = np.split(normal, len(models) + len(bounds), axis=1)
        chains = [Chain(each, own) for each, own in zip((*models, *bounds), blocks, strict=True)]
        self._models, self._bounds = chains[: len(models)], chains[len(models) :]
        self._directions = drawn_directions(len(models) + len(known), rng)
        nothing = np.empty((draws, 0, len(models) + len(known)))
        self._best = reached(front, nothing, self._directions)

    def gains(self, genomes: np.ndarray, draws: int) -> np.ndarray:
        """Mean over the first draws of what each of [n, genes] adds alone, float64 [n]."""
        features = self._features(genomes)
        values = self._values(
            genomes,
            [chain.draw(features, draws) for chain in self._models],
            [chain.draw(features, draws) for chain in self._bounds],
        )
        found = np.empty(len(genomes))
        best = self._best[:draws, None, :]
        for start in range(0, len(genomes), _ROWS):
            added = _reach(values[:, start : start + _ROWS], self._directions)
            added -= best
            found[start : start + _ROWS] = np.maximum(added, 0.0, out=added).mean(axis=(0, 2))
        return found

    def add(self, genome: np.ndarray) -> None:
        """Take a point, float64 [1, genes], for one that will be known."""
        features = self._features(genome)
        values = self._values(
            genome,
            [chain.add(features) for chain in self._models],
            [chain.add(features) for chain in self._bounds],
        )
        self._best = np.maximum(self._best, _reach(values, self._directions)[:, 0])

    def _values(
        self, genomes: np.ndarray, drawn: Sequence[np.ndarray], bounds: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Objectives in each draw, float64 [draws, n, objectives]."""
        columns = [*drawn]
        columns += [np.broadcast_to(each(genomes), drawn[0].shape) for each in self._known]
        values = np.stack(columns, axis=2)
        for broken in bounds:
            values[broken > 0.0] = np.inf
        return values


def _reach(values: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """As `improvement.reach`, in place and without powers, which cost most of it."""
    room = np.maximum(REFERENCE - values, 0.0)
    inverse = 1.0 / directions
    far = room[..., None, 0] * inverse[:, 0]
    for k in range(1, directions.shape[1]):
        np.minimum(far, room[..., None, k] * inverse[:, k], out=far)
    found = far.copy()
    for _ in range(1, directions.shape[1]):
        found *= far
    return found


def best_points(
    improvement: Improvement,
    grid: Grid,
    pool: np.ndarray,
    count: int,
    taken: Collection[Genome],
    effort: Effort,
    rng: np.random.Generator,
) -> np.ndarray:
    """Up to `count` points, best first, none of them `taken`: float64 [count, genes]; all are added.

    `pool` holds raw points on the grid that are not taken, float64 [n, genes].
    """
    unknown, found = set(taken), []
    for _ in range(count):
        rows = [row for row in pool if tuple(row.tolist()) not in unknown]
        if not rows:
            break
        left = np.array(rows)
        gains = improvement.gains(left, effort.screening)
        starts = left[np.argsort(-gains, kind="stable")[: effort.restarts]]
        point = _refined(improvement, grid, starts, unknown, effort, rng)
        improvement.add(point[None])
        unknown.add(tuple(point.tolist()))
        found.append(point)
    return np.array(found).reshape(-1, len(grid))


def _refined(
    improvement: Improvement,
    grid: Grid,
    starts: np.ndarray,
    taken: Collection[Genome],
    effort: Effort,
    rng: np.random.Generator,
) -> np.ndarray:
    """The best of some points and of what lies around them, float64 [genes]."""
    points = starts.copy()
    gains = improvement.gains(points, effort.draws)
    for number in range(effort.rounds):
        width = _WIDTH * 0.5**number
        offers = np.concatenate([_neighbours(grid, each, width, effort, rng) for each in points])
        offered = improvement.gains(offers, effort.draws)
        offered[[tuple(row) in taken for row in offers.tolist()]] = -1.0
        offered = offered.reshape(len(points), -1)
        best = offered.argmax(axis=1)
        for index, choice in enumerate(best.tolist()):
            if offered[index, choice] > gains[index]:
                gains[index] = offered[index, choice]
                points[index] = offers[index * effort.neighbours + choice]
    found: np.ndarray = points[int(np.argmax(gains))]
    return found


def _neighbours(
    grid: Grid, point: np.ndarray, width: float, effort: Effort, rng: np.random.Generator
) -> np.ndarray:
    """Points around one: in turn a shift of a block of genes, and steps of some genes each its own."""
    found = np.tile(point, (effort.neighbours, 1))
    for number, row in enumerate(found):
        if number % 2:
            moved = structured.mutate(grid, point, "layers", rng) - point
            row += moved * (width / structured.SHIFT)
        else:
            some = rng.random(len(row)) < max(0.3, 1.0 / len(row))
            row += some * rng.normal(0.0, width, len(row)) * (grid.high - grid.low)
    return grid.snap(np.clip(found, grid.low, grid.high))


def _normal(draws: int, numbers: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers, float64 [draws, numbers]: of a scrambled Sobol sequence, if it has so many."""
    if numbers > qmc.Sobol.MAXDIM:
        return rng.normal(size=(draws, numbers))
    unit = qmc.Sobol(numbers, rng=rng).random_base2((draws - 1).bit_length())[:draws]
    found: np.ndarray = ndtri(np.clip(unit, 1e-9, 1.0 - 1e-9))
    return found
