"""Steering: which of an objective's two values a search goes by, the smooth or the reported one.

The smooth value is less noisy, but another number: it may be trusted only as long as it ranks candidates much
as the reported metric does. Nothing is decided or shown by it: fronts, races and picks know the metric alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evomerge.objectives.objective import Complete

THRESHOLD = 0.5
"""Rank correlation from which on the smooth value is used."""

ENOUGH = 20
"""Candidates from which on a correlation counts: of 20, one of 0.8 falls under 0.5 in 3 % of cases."""

SHARE = 0.9
"""Of all candidates, how many must have a smooth value; those of an older ledger may have none."""

Reason = Literal[
    "correlated", "too few to tell", "reported is constant", "weak", "smooth is constant", "absent"
]


@dataclass(frozen=True)
class Choice:
    """What steers one objective.

    Attributes:
        objective: its index.
        correlation: Spearman's rank correlation of smooth and reported values over the candidates that have
            both, ties at their mean rank; None where there is none (fewer than two of them, or a constant).
        used: which of the two.
        reason: why. `correlated`: at least `THRESHOLD`; `weak`: less. `too few to tell`: fewer than `ENOUGH`
            candidates, so that the smooth value is used whatever the correlation. A constant tells no
            candidates apart, so that the other value is used. `absent`: too many have no smooth value.
    """

    objective: int
    correlation: float | None
    used: Literal["smooth", "reported"]
    reason: Reason

    def to_json(self, *, is_used: bool) -> dict[str, Any]:
        """As plain JSON data, the correlation to four digits; alone where nobody makes the choice."""
        rounded = None if self.correlation is None else round(self.correlation, 4)
        made = {"used": self.used, "reason": self.reason} if is_used else {}
        return {"correlation": rounded, **made}


@dataclass(frozen=True, eq=False)
class Steering:
    """What to steer by: `values` float64 [candidates, objectives], minimised; `choices`, one per objective.

    Smooth and reported values have different units: an objective has one of them for all its candidates.
    """

    values: np.ndarray
    choices: tuple[Choice, ...]


def steering(
    outcomes: Sequence[Complete], deciding: Sequence[Complete] = (), share: float = SHARE
) -> Steering:
    """The values to steer by, of candidates in the given order; an empty [0, 0] of none.

    Args:
        outcomes: of the candidates.
        deciding: of others, which have a say in the choice as well.
        share: of all of them, how many must have a smooth value. Those that lack it where it is used are
            given what a straight line through the others lets expect of their reported value.
    """
    if not outcomes:
        return Steering(np.empty((0, 0)), ())
    values = np.array([outcome.values for outcome in outcomes], dtype=np.float64)
    judged = [*outcomes, *deciding]
    reported = np.array([outcome.values for outcome in judged], dtype=np.float64)
    choices = []
    for objective in range(values.shape[1]):
        smooth = np.array([_smooth(outcome, objective) for outcome in judged])
        choices.append(choose(objective, smooth, reported[:, objective], share))
        if choices[-1].used == "smooth":
            values[:, objective] = _filled(smooth, reported[:, objective])[: len(values)]
    return Steering(values, tuple(choices))


def choose(objective: int, smooth: np.ndarray, reported: np.ndarray, share: float = SHARE) -> Choice:
    """Which value steers, from float64 [candidates] of both in one direction; NaN where smooth is absent."""
    has = np.isfinite(smooth)
    if not has.any() or has.mean() < share:
        return Choice(objective, None, "reported", "absent")
    smooth, reported = smooth[has], reported[has]
    if len(smooth) > 1 and np.ptp(smooth) == 0:
        return Choice(objective, None, "reported", "smooth is constant")
    correlation = rank_correlation(smooth, reported)
    if len(smooth) < ENOUGH:
        return Choice(objective, correlation, "smooth", "too few to tell")
    if correlation is None:
        return Choice(objective, None, "smooth", "reported is constant")
    if correlation >= THRESHOLD:
        return Choice(objective, correlation, "smooth", "correlated")
    return Choice(objective, correlation, "reported", "weak")


def _filled(smooth: np.ndarray, reported: np.ndarray) -> np.ndarray:
    """Smooth values with what is absent on the line of least squares, within the range of the others."""
    has = np.isfinite(smooth)
    if has.all():
        return smooth
    x, y = reported[has] - reported[has].mean(), smooth[has]
    slope = float(x @ (y - y.mean()) / (x @ x)) if np.ptp(x) > 0 else 0.0
    line = y.mean() + slope * (reported - reported[has].mean())
    return np.where(has, smooth, np.clip(line, y.min(), y.max()))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation of float64 [n] and [n], ties at their mean rank; None of a constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    x, y = (ranks - ranks.mean() for ranks in (_mean_ranks(a), _mean_ranks(b)))
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2)[which]
    return ranks


def _smooth(outcome: Complete, objective: int) -> float:
    found = outcome.smooth[objective] if outcome.smooth else None
    return math.nan if found is None else found
