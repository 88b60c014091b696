"""How sure a front is: bootstrap over items, of candidates, pairs and whole fronts.

Every candidate answered the same items, so items are resampled *jointly* for all of them: what is
common to all (an easy draw of items) cancels, and only differences count. Arrays hold per-item results
as they are measured; `signs` says which way is better (`Objective.sign`: +1 minimised, -1 maximised).

Percentile bootstrap, Efron and Tibshirani (1993), chapters 13 and 16. Each function is a pure function
of its arguments: blocks of resamples have random streams of their own, keyed by seed and block.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives import pareto
from evomerge.objectives.objective import Scaling

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 100
"""Resamples drawn at a time; part of what a seed means, so that memory stays bounded."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over items, its interval, and the shares of resamples with a > b and a = b."""

    difference: float
    low: float
    high: float
    probability_greater: float
    probability_equal: float


@dataclass(frozen=True)
class Optimism:
    """How much better a front looked on search items than on held-out ones, in metric units.

    Positive is flattery, whichever way an objective points. `objectives` has an interval for each, for
    the mean of the members; `mean` is over all objectives.
    """

    objectives: tuple[Interval, ...]
    mean: Interval


def probability_non_dominated(
    items: Sequence[np.ndarray],
    signs: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = 0,
    tasks: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """For each candidate the share of resamples in which no other candidate dominates it.

    Args:
        items: per objective an array [candidates, items]; objectives may differ in items.
        signs: per objective +1 (minimised) or -1 (maximised).
        resamples: number of bootstrap resamples.
        seed: of the resamples.
        tasks: per objective what it was measured on; objectives of one task share their items, so they
            are resampled together. By default each is a task of its own.

    Returns:
        float64 [candidates]. Candidates with equal results do not dominate one another.

    Raises:
        ValueError: if shapes do not fit or a result is not finite.
    """
    arrays = _checked(items, signs)
    candidates = len(arrays[0])
    if candidates == 0:
        return np.zeros(0)
    counts = np.zeros(candidates, dtype=np.int64)
    for means in _resampled_means(arrays, signs, resamples, seed, tasks):
        counts += pareto.non_dominated_in_each(means).sum(axis=0)
    return counts / resamples


def probability_dominates(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    signs: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = 0,
    tasks: Sequence[Hashable] | None = None,
) -> float:
    """Share of resamples in which model a dominates model b; arguments per objective float [items].

    Raises:
        ValueError: if shapes do not fit or a result is not finite.
    """
    arrays = _checked([_pair(x, y) for x, y in zip(a, b, strict=True)], signs)
    wins = 0
    for means in _resampled_means(arrays, signs, resamples, seed, tasks):
        first, second = means[:, 0], means[:, 1]
        wins += int(((first <= second).all(axis=1) & (first < second).any(axis=1)).sum())
    return wins / resamples


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> PairedDifference:
    """Mean difference a - b of two models on the same items (float [items] each).

    Raises:
        ValueError: if lengths differ, there are no items, or a result is not finite.
    """
    return paired_bootstrap_of_mean([a], [b], resamples, seed, level)


def paired_bootstrap_of_mean(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    tasks: Sequence[Hashable] | None = None,
) -> PairedDifference:
    """Difference of the means over objectives of two models; per objective float [items].

    `tasks`: as in `probability_non_dominated`.

    Raises:
        ValueError: if shapes do not fit or a result is not finite.
    """
    pairs = _checked([_pair(x, y) for x, y in zip(a, b, strict=True)], [1.0] * len(a))
    differences = [np.subtract(*pair)[None, :] for pair in pairs]
    blocks = _resampled_means(differences, [1.0] * len(a), resamples, seed, tasks)
    means = np.concatenate([block.mean(axis=2)[:, 0] for block in blocks])
    low, high = _percentiles(means, level)
    return PairedDifference(
        difference=float(np.mean([difference.mean() for difference in differences])),
        low=low,
        high=high,
        probability_greater=float((means > 0).mean()),
        probability_equal=float((means == 0).mean()),
    )


def hypervolume_interval(
    items: Sequence[np.ndarray],
    signs: Sequence[float],
    scaling: Scaling,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    tasks: Sequence[Hashable] | None = None,
) -> Interval:
    """Hypervolume of some candidates with its interval over items; `scaling` is held fixed.

    Resampled volumes lie somewhat above the measured one, because the best of noisy members counts;
    compare intervals of fronts with one another rather than with a single value.

    Raises:
        ValueError: if shapes do not fit or a result is not finite.
    """
    arrays = _checked(items, signs)
    measured = np.stack([s * x.mean(axis=1) for s, x in zip(signs, arrays, strict=True)], axis=1)
    volumes = [
        pareto.hypervolume(scaling.scale(values))
        for means in _resampled_means(arrays, signs, resamples, seed, tasks)
        for values in means
    ]
    low, high = _percentiles(np.array(volumes), level)
    return Interval(pareto.hypervolume(scaling.scale(measured)), low, high)


def optimism(
    search: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    signs: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    tasks: Sequence[Hashable] | None = None,
) -> Optimism:
    """Selection bias of a front: its mean on search items minus that on held-out items.

    Args:
        search: per objective [members, items], the items the search was told.
        held_out: per objective [members, other items], members in the same order.
        signs: per objective +1 (minimised) or -1 (maximised).
        resamples: number of bootstrap resamples, items of both splits drawn independently.
        seed: of the resamples.
        level: of the intervals.
        tasks: as in `probability_non_dominated`.

    Raises:
        ValueError: if shapes do not fit, there are no members, or a result is not finite.
    """
    before, after = _checked(search, signs), _checked(held_out, signs)
    if len(before[0]) == 0 or len(before[0]) != len(after[0]):
        raise ValueError("search and held-out results need the same members, at least one")

    def front_means(arrays: list[np.ndarray], salt: int) -> np.ndarray:
        # The mean over members is one row of results; resampling that row resamples them jointly.
        rows = [array.mean(axis=0, keepdims=True) for array in arrays]
        blocks = _resampled_means(rows, signs, resamples, seed, tasks, salt)
        return np.concatenate([block[:, 0] for block in blocks])

    drawn = front_means(after, 2) - front_means(before, 1)
    measured = np.array(
        [s * (y.mean() - x.mean()) for s, x, y in zip(signs, before, after, strict=True)]
    )
    intervals = [
        Interval(float(value), *_percentiles(column, level))
        for value, column in zip(measured, drawn.T, strict=True)
    ]
    overall = Interval(float(measured.mean()), *_percentiles(drawn.mean(axis=1), level))
    return Optimism(tuple(intervals), overall)


def resampled_means(
    items: Sequence[np.ndarray],
    signs: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = 0,
    tasks: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """Mean results of all candidates in every resample; arguments as in `probability_non_dominated`.

    Returns:
        float64 [resamples, candidates, objectives], minimised form.

    Raises:
        ValueError: if shapes do not fit or a result is not finite.
    """
    arrays = _checked(items, signs)
    return np.concatenate(list(_resampled_means(arrays, signs, resamples, seed, tasks)))


def _pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.shape(a) != np.shape(b) or np.ndim(a) != 1:
        raise ValueError(f"paired results need equal lengths, found {np.shape(a)} and {np.shape(b)}")
    return np.stack([a, b])


def _checked(items: Sequence[np.ndarray], signs: Sequence[float]) -> list[np.ndarray]:
    arrays = [np.asarray(array, dtype=np.float64) for array in items]
    if len(arrays) != len(signs) or not arrays:
        raise ValueError(f"{len(arrays)} arrays of results for {len(signs)} signs; need as many, > 0")
    for array in arrays:
        if array.ndim != 2 or len(array) != len(arrays[0]) or array.shape[1] == 0:
            raise ValueError(
                f"expected results [{len(arrays[0])} candidates, items >= 1], found {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("results must be finite")
    return arrays


def _resampled_means(
    arrays: Sequence[np.ndarray],
    signs: Sequence[float],
    resamples: int,
    seed: int,
    tasks: Sequence[Hashable] | None,
    salt: int = 0,
) -> Iterator[np.ndarray]:
    """Blocks of means in minimised form, float64 [block, candidates, objectives]."""
    if resamples < 1:
        raise ValueError(f"needs at least one resample, found {resamples}")
    named = list(range(len(arrays))) if tasks is None else list(tasks)
    if len(named) != len(arrays):
        raise ValueError(f"{len(named)} tasks for {len(arrays)} objectives")
    order = {name: index for index, name in enumerate(dict.fromkeys(named))}
    lengths: dict[Hashable, int] = {}
    for name, array in zip(named, arrays, strict=True):
        if lengths.setdefault(name, array.shape[1]) != array.shape[1]:
            raise ValueError(f"objectives of task {name!r} have different numbers of items")
    # Candidates with equal results go through one row, so that their means are equal to the last bit
    # whatever order the matrix product sums in.
    distinct = [np.unique(array, axis=0, return_inverse=True) for array in arrays]
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        draws = {}
        for name, index in order.items():
            rng = np.random.default_rng([seed, salt, index, start // _BLOCK])
            draws[name] = _counts(rng, size, lengths[name])
        columns = []
        for name, sign, (rows, inverse) in zip(named, signs, distinct, strict=True):
            means = draws[name] @ rows.T / lengths[name]
            columns.append(sign * means[:, inverse.ravel()])
        yield np.stack(columns, axis=2)


def _counts(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
    """How often each item is drawn in each of `size` resamples, float64 [size, items]."""
    drawn = rng.integers(length, size=(size, length)) + length * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * length).reshape(size, length).astype(np.float64)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, found {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
