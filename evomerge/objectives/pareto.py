"""Dominance, hypervolume and picks on plain arrays. All values are minimised; nothing may be NaN."""

from __future__ import annotations

import moocore
import numpy as np

REFERENCE = 1.1
"""Hypervolume reference per scaled objective (0 = best expert, 1 = worst of base and experts)."""

MANY = 48
"""Points from which on comparing all pairs takes longer than sorting."""


RHO = 1e-3
"""What the sum of all objectives counts beside the worst of them, where one is preferred."""


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"expected an array [points, objectives], found shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; a failed candidate has no place in a front")
    return values


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether `a` is nowhere worse and somewhere better than `b` ([objectives], minimised)."""
    return bool(np.all(a <= b) and np.any(a < b))


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Bool [points]: which rows no other row dominates; equal rows all stay."""
    values = _checked(values)
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(values, keep_weakly=True), dtype=bool)


def non_dominated_in_each(values: np.ndarray) -> np.ndarray:
    """As `non_dominated` in each of many small sets: [sets, points, objectives] to bool [sets, points].

    Compares all pairs of a set at once, so that a hundred resamples of a front cost as much as two calls
    of `non_dominated`; larger sets go to that one by one.
    """
    if values.shape[1] > MANY:
        return np.array([non_dominated(each) for each in values])
    _checked(values.reshape(-1, values.shape[2]))
    sets, points, objectives = values.shape
    never_worse = np.ones((sets, points, points), dtype=bool)
    better = np.zeros_like(never_worse)
    for number in range(objectives):
        column = np.ascontiguousarray(values[:, :, number])
        first, second = column[:, :, None], column[:, None]
        never_worse &= first <= second
        better |= first < second
    found: np.ndarray = np.logical_not(np.any(never_worse & better, axis=1))
    return found


def hypervolume(scaled: np.ndarray, reference: float = REFERENCE) -> float:
    """Volume between the rows and `reference` in every scaled objective; 0 if none is inside."""
    scaled = _checked(scaled)
    if len(scaled) == 0:
        return 0.0
    return float(moocore.hypervolume(scaled, ref=np.full(scaled.shape[1], reference)))


def knee(scaled: np.ndarray) -> int:
    """Row with the smallest Chebyshev distance to the ideal, ties broken by the sum, then the index.

    The equal-weight case of `preferred`; on a front it is the member whose worst objective is best.
    """
    scaled = _checked(scaled)
    return preferred(scaled, np.full(scaled.shape[1], 1.0 / scaled.shape[1]))


def preferred(scaled: np.ndarray, weights: np.ndarray) -> int:
    """Row that is nearest to what `weights` [objectives] prefer; see `distances`."""
    return int(np.argmin(distances(_checked(scaled), np.asarray(weights, dtype=np.float64))))


def distances(scaled: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How far rows are from what weights prefer, float64 [points]: `chebyshev`, less being better.

    Where a row is better than the ideal in all that has weight, an objective is divided by its weight
    instead: times a small weight an amount below 0 is the largest, and what matters least would decide.
    """
    counted = weights > 0.0
    weighted = np.compress(counted, scaled * weights, axis=1)
    # Equal weights are the knee on either side of the ideal, to the last bit.
    shares = weights[counted] * np.count_nonzero(counted)
    better = (weighted / (shares * shares)).max(axis=1)
    most = np.where(better < 0.0, better, weighted.max(axis=1))
    found: np.ndarray = most + RHO * weighted.sum(axis=1)
    return found


def chebyshev(scaled: np.ndarray, weights: np.ndarray, rho: float = RHO) -> np.ndarray:
    """The augmented Chebyshev function (Steuer and Choo 1983): less is nearer to what is preferred.

    max_k w_k g_k + rho * sum_k w_k g_k on scaled objectives g, float64 [..., objectives] to [...].
    """
    weighted = scaled * weights
    found: np.ndarray = weighted.max(axis=-1) + rho * weighted.sum(axis=-1)
    return found
