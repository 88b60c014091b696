"""Gaussian processes for merge genomes: what a few hundred evaluations say about the others.

Rasmussen and Williams (2006), "Gaussian Processes for Machine Learning", chapters 2, 4 and 5. A genome is
seen by level: the mean of each group (one coefficient of one expert), what each depth differs from it, and
what each gene differs from its depth. Each level has length scales of its own, found by marginal likelihood
under priors, so that 24, 168 and 2,000 genes need the same handful of numbers. Or by gene, each with a length
scale of its own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from evomerge.optimizers.grid import Grid

FITTED = 160
"""Points at most that length scales are fitted on; predictions use all that are given."""

REFIT = 1.15
"""Length scales are fitted anew when there are so many times more points."""

LEAST_FITTED = 4
"""Values below which length scales are not fitted."""

LEAST_NOISE = 1e-6
_ITERATIONS = 30
_JITTER = 1e-8
_ROOT5 = np.sqrt(5.0)


@cache
def _libraries() -> ThreadpoolController:
    # Kept: to find them takes 10 ms.
    return ThreadpoolController()


_turn = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which linear algebra runs on one thread: its last bits are then the same on any cores.

    One at a time is in it, since such limits, and the random numbers of torch, are the whole process's: the
    campaigns of a study ask and tell side by side.
    """
    with _turn, _libraries().limit(limits=1, user_api="blas"):
        yield


class Levels:
    """Genomes as features by level, each level scaled so that a distance in it is a root mean square.

    `sizes` holds the number of features of each length scale: one for each group's mean, then one length
    scale for all depths and one for all genes (left out where there is nothing below).
    """

    def __init__(self, grid: Grid) -> None:
        self._low, self._span = grid.low, grid.high - grid.low
        self._groups = grid.groups
        self._blocks: list[list[np.ndarray]] = []
        for group in grid.groups:
            depths = grid.depth[group]
            self._blocks.append([group[depths == depth] for depth in np.unique(depths)])
        by_depth = sum(len(blocks) for blocks in self._blocks if len(blocks) > 1)
        by_gene = sum(len(block) for blocks in self._blocks for block in blocks if len(block) > 1)
        self.sizes = [1] * len(self._groups) + [size for size in (by_depth, by_gene) if size]

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Float64 [n, genes] to float64 [n, features]."""
        unit = (genomes - self._low) / self._span
        means, depths, genes = [], [], []
        for group, blocks in zip(self._groups, self._blocks, strict=True):
            mean = unit[:, group].mean(axis=1)
            means.append(mean[:, None])
            share = np.sqrt(1.0 / len(group))
            for block in blocks:
                level = unit[:, block].mean(axis=1)
                if len(blocks) > 1:
                    depths.append((level - mean)[:, None] * np.sqrt(len(block)) * share)
                if len(block) > 1:
                    genes.append((unit[:, block] - level[:, None]) * share)
        return np.hstack([*means, *depths, *genes])


class Genes:
    """Genomes as features by gene, each with a length scale of its own; as many attributes as `Levels`.

    A group's genes together count as much in a distance as in `Levels`, so that the priors of `fit` are as
    mild for many genes as for few: length scales grow with the root of their number (Hvarfner, Hellsten and
    Nardi 2024, arXiv:2402.02229). Where every group is one gene both are the same.
    """

    def __init__(self, grid: Grid) -> None:
        self._low, self._span = grid.low, grid.high - grid.low
        self._share = np.ones(len(grid))
        for group in grid.groups:
            self._share[group] = np.sqrt(1.0 / len(group))
        self.sizes = [1] * len(grid)

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Float64 [n, genes] to float64 [n, genes]."""
        found: np.ndarray = (genomes - self._low) / self._span * self._share
        return found


@dataclass(frozen=True)
class Hyperparameters:
    """Logarithms of length scales (one for each of a form's `sizes`), and of noise over signal variance."""

    scales: tuple[float, ...]
    noise: float


@dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian process with its data: constant mean, Matern 5/2, noise.

    `scales` float64 [features] divides features; `points` are divided already, float64 [n, features].
    """

    chosen: Hyperparameters
    sizes: list[int]
    scales: np.ndarray
    variance: float
    mean: float
    points: np.ndarray
    factor: np.ndarray
    weights: np.ndarray

    def with_data(self, features: np.ndarray, values: np.ndarray) -> Process:
        """The same length scales, given other data."""
        return condition(features, self.sizes, values, self.chosen)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (without noise) at [m, features], both float64 [m]."""
        cross = self.variance * _matern(_distances(features / self.scales, self.points))
        spread = self.variance - (solve_triangular(self.factor, cross.T, lower=True) ** 2).sum(axis=0)
        return self.mean + cross @ self.weights, np.sqrt(np.maximum(spread, 1e-12))

    def expect(self, features: np.ndarray) -> np.ndarray:
        """The mean alone."""
        cross = _matern(_distances(features / self.scales, self.points))
        found: np.ndarray = self.mean + self.variance * (cross @ self.weights)
        return found

    def draw(self, features: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Joint draws at [m, features] from standard normal numbers [draws, m]; float64 [draws, m]."""
        scaled = features / self.scales
        cross = self.variance * _matern(_distances(scaled, self.points))
        half = solve_triangular(self.factor, cross.T, lower=True)
        covariance = self.variance * _matern(_distances(scaled, scaled)) - half.T @ half
        covariance[np.diag_indices_from(covariance)] += 1e-6 * self.variance
        found: np.ndarray = (self.mean + cross @ self.weights) + normal @ np.linalg.cholesky(
            covariance
        ).T
        return found


class Chain:
    """Draws of a process at points one after another, each given those before, by fixed normal numbers.

    As the samples of BoTorch's joint posteriors: what is drawn at a next point is a smooth function of it.
    `normal` float64 [draws, points]: as many points can be added as it has columns, less one.
    """

    def __init__(self, process: Process, normal: np.ndarray) -> None:
        self._process, self._normal = process, normal
        self._points = np.empty((0, process.points.shape[1]))
        self._half = np.empty((len(process.points), 0))
        self._root = np.empty((0, 0))

    def draw(self, features: np.ndarray, draws: int) -> np.ndarray:
        """The first draws at each of [m, features] as the next point; float64 [draws, m]."""
        mean, _, _, below, rest = self._given(features)
        known = len(self._root)
        normal = self._normal[:draws]
        found: np.ndarray = mean + normal[:, :known] @ below + normal[:, [known]] * rest
        return found

    def add(self, features: np.ndarray) -> np.ndarray:
        """Make [1, features] one of the points; all draws there, float64 [draws, 1]."""
        found = self.draw(features, len(self._normal))
        _, points, half, below, rest = self._given(features)
        known = len(self._root)
        root = np.zeros((known + 1, known + 1))
        root[:known, :known] = self._root
        root[known] = [*below[:, 0], rest[0]]
        self._root = root
        self._points = np.concatenate([self._points, points])
        self._half = np.concatenate([self._half, half], axis=1)
        return found

    def _given(
        self, features: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Means, points in length scales, and of a joint factor their rows by data, by points, and alone."""
        process = self._process
        points = features / process.scales
        cross = process.variance * _matern(_distances(points, process.points))
        half = solve_triangular(process.factor, cross.T, lower=True)
        between = process.variance * _matern(_distances(self._points, points)) - self._half.T @ half
        below = between
        if len(between):
            below = solve_triangular(self._root, between, lower=True)
        rest = process.variance - (half**2).sum(axis=0) - (below**2).sum(axis=0)
        alone = np.sqrt(np.maximum(rest, 1e-6 * process.variance))
        return process.mean + cross @ process.weights, points, half, below, alone


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * (one @ other.T)
    found: np.ndarray = np.sqrt(np.maximum(squares, 0.0))
    return found


def _matern(distances: np.ndarray) -> np.ndarray:
    """Matern 5/2 of distances in length scales (equation 4.17)."""
    root = _ROOT5 * distances
    found: np.ndarray = (1.0 + root + root**2 / 3.0) * np.exp(-root)
    return found


def fit(
    features: np.ndarray, sizes: list[int], values: np.ndarray, least_noise: float
) -> Hyperparameters:
    """Length scales and noise of largest marginal likelihood times prior (equations 5.8 and 5.9).

    The signal's variance is profiled out. Priors are normal on logarithms: a group's mean varies within half
    its range, depths and genes more gently.

    Args:
        features: float64 [n, features] of `Levels` or `Genes`.
        sizes: features of each length scale, in order.
        values: float64 [n].
        least_noise: variance of noise over that of the values, at least.
    """
    count, kinds = len(values), len(sizes)
    centred = values - values.mean()
    owner = np.repeat(np.arange(kinds), sizes)
    parts = np.stack(
        [
            _distances(features[:, owner == kind], features[:, owner == kind]) ** 2
            for kind in range(kinds)
        ]
    )
    means = sum(size == 1 for size in sizes) if kinds > 1 else 1
    centre = np.array([np.log(0.5) if kind < means else np.log(0.7) for kind in range(kinds)] + [-4.0])
    width = np.array([0.8] * kinds + [1.5])
    eye = np.eye(count)

    def negative(point: np.ndarray) -> tuple[float, np.ndarray]:
        inverse = np.exp(-2.0 * point[:-1])
        root = _ROOT5 * np.sqrt(np.tensordot(inverse, parts, axes=1))
        fall = np.exp(-root)
        kernel = (1.0 + root + root**2 / 3.0) * fall
        noise = np.exp(point[-1])
        factor = np.linalg.cholesky(kernel + (noise + _JITTER) * eye)
        solved = cho_solve((factor, True), np.column_stack([centred, eye]))
        alpha, inverted = solved[:, 0], solved[:, 1:]
        signal = max(float(centred @ alpha) / count, 1e-12)
        outer = inverted - np.outer(alpha, alpha) / signal
        # d kernel / d log scale = 5/3 (1 + root) exp(-root) * squared distance / scale^2.
        steep = outer * ((5.0 / 3.0) * (1.0 + root) * fall)
        slopes = [
            0.5 * float((steep * part).sum()) * share
            for part, share in zip(parts, inverse, strict=True)
        ]
        slopes.append(0.5 * float(np.trace(outer)) * noise)
        off = (point - centre) / width
        value = 0.5 * count * np.log(signal) + float(np.log(np.diag(factor)).sum())
        return value + 0.5 * float(off @ off), np.array(slopes) + off / width

    floor = np.log(max(least_noise, 1e-6))
    bounds = [(np.log(0.02), np.log(50.0))] * kinds + [(floor, max(floor, 0.0) + 0.01)]
    start = np.clip(centre, [low for low, _ in bounds], [high for _, high in bounds])
    found = minimize(
        negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS}
    )
    # A few digits, so that the last bits of a library's sums decide nothing.
    best = np.round(found.x, 4).tolist()
    return Hyperparameters(tuple(best[:-1]), best[-1])


def condition(
    features: np.ndarray, sizes: list[int], values: np.ndarray, chosen: Hyperparameters
) -> Process:
    """The process given data: features float64 [n, features], values float64 [n]."""
    scales = np.repeat(np.exp(np.array(chosen.scales)), sizes)
    points = features / scales
    kernel = _matern(_distances(points, points))
    kernel[np.diag_indices_from(kernel)] += np.exp(chosen.noise) + _JITTER
    factor = np.linalg.cholesky(kernel)
    ones = cho_solve((factor, True), np.ones(len(values)))
    mean = float(ones @ values) / float(ones.sum())
    weights = cho_solve((factor, True), values - mean)
    variance = max(float((values - mean) @ weights) / len(values), 1e-12)
    return Process(
        chosen,
        sizes,
        scales,
        variance,
        mean,
        points,
        factor * np.sqrt(variance),
        weights / variance,
    )


Name = tuple[str | int, ...]
"""What a process is of: a word, and perhaps which."""

Data = tuple[np.ndarray, np.ndarray]
"""Features float64 [n, features] with values float64 [n]."""


def fitted_at(count: int) -> int:
    """Of `count` results, after how many the length scales in use were fitted: 4, and so on by `REFIT`."""
    at = LEAST_FITTED
    while (following := max(at + 1, math.ceil(REFIT * at))) <= count:
        at = following
    return min(at, count)


class Fits:
    """Processes by name, whose length scales are fitted anew only when there is more to know by `REFIT`.

    A function of what is given alone: what is kept between calls only saves time, so that a search that
    resumes need not have asked before.
    """

    def __init__(self, sizes: list[int]) -> None:
        """`sizes`: features of each length scale, in order; see `Levels` and `Genes`."""
        self._sizes = sizes
        self._known: dict[Name, tuple[tuple[int, int], Hyperparameters]] = {}

    def process(self, name: Name, now: Data, then: Data | None, at: tuple[int, int]) -> Process:
        """A process given all data.

        Args:
            name: of what it predicts.
            now: all that is known.
            then: what was known at the last fit; None (or too little) if nothing was.
            at: how many results were known then, and are now.
        """
        early = then is not None and len(then[1]) >= LEAST_FITTED
        features, values = then if then is not None and early else now
        key = (at[0], 0) if early else (at[1], 1)
        known = self._known.get(name)
        if known is None or known[0] != key:
            count = len(values)
            some = (
                np.arange(count) if count <= FITTED else np.linspace(0, count - 1, FITTED).astype(int)
            )
            known = (key, fit(features[some], self._sizes, values[some], LEAST_NOISE))
            self._known[name] = known
        return condition(now[0], self._sizes, now[1], known[1])
