"""Racing: give a candidate up as soon as some reference has surely beaten it on every task.

All models answer the same items in the same order, block by block. After each block of every task the
candidate is compared with each reference on the items both have answered, by the paired z of the mean
difference; it is given up if one reference is better by at least the threshold on every objective. (Racing
by paired tests on shared instances: Maron and Moore 1994, "Hoeffding Races"; Birattari et al. 2002,
"A Racing Algorithm for Configuring Metaheuristics".)

Whom a candidate races against is frozen before it is evaluated, so that the decision is a pure function of
recorded data: any worker comes to the same one, and `verify` comes to it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.objective import Complete, Outcome

REFERENCES = 64
"""Most models a candidate races against; a larger front is thinned out evenly."""


@dataclass(frozen=True)
class Race:
    """Whom a candidate races against, and by which rule.

    Attributes:
        metrics: the objectives' metrics.
        signs: per objective +1 (minimised) or -1 (maximised).
        ids: the references.
        results: per objective [references, items], the search items in their fixed order; uint8 where all
            are 0 or 1, else float64.
        threshold: paired z that must be reached on every objective.
        first: blocks of each task before the first look.
    """

    metrics: tuple[str, ...]
    signs: tuple[float, ...]
    ids: tuple[str, ...]
    results: tuple[np.ndarray, ...]
    threshold: float
    first: int = 1


def compact(results: np.ndarray) -> np.ndarray:
    """The results as uint8 if all are 0 or 1, else as they are."""
    small = results.astype(np.uint8)
    return small if (small <= 1).all() and (small == results).all() else results


def beaten_by(race: Race, items: Mapping[str, np.ndarray]) -> str | None:
    """The first reference that beats a candidate on every objective by the threshold, if there is one.

    Args:
        race: the references and the rule.
        items: the candidate's results so far, metric to float64 [items seen], for every metric of the race.

    Raises:
        ValueError: if a metric has more results than the references.
    """
    left = list(range(len(race.ids)))
    for metric, sign, results in zip(race.metrics, race.signs, race.results, strict=True):
        own = np.asarray(items[metric], dtype=np.float64)
        if len(own) > results.shape[1]:
            raise ValueError(f"{len(own)} results of {metric}, the references have {results.shape[1]}")
        behind = sign * (own - results[left, : len(own)].astype(np.float64))
        left = [row for row, lead in zip(left, behind, strict=True) if _surely(lead, race.threshold)]
        if not left:
            return None
    return race.ids[left[0]]


def _surely(lead: np.ndarray, threshold: float) -> bool:
    """Whether the mean of paired differences [items] is positive and has a z of at least `threshold`.

    z = mean / (s / sqrt(n)) with the sample standard deviation s, written without a division. Exactly
    rounded sums do not depend on the order of adding, so that every machine decides alike.
    """
    count, total = len(lead), math.fsum(lead.tolist())
    if count < 2 or total <= 0.0:
        return False
    spread = count * math.fsum((lead * lead).tolist()) - total * total
    return total * total * (count - 1) >= threshold * threshold * spread


def looks(items: Sequence[int], blocks: Sequence[int], first: int = 1) -> list[tuple[int, ...]]:
    """How many items of each objective are seen at each look, in order.

    The last block of the longest task is no look: by then everything has been paid for.

    Args:
        items: items of each objective.
        blocks: items of a block of each objective's task.
        first: blocks before the first look.
    """
    rounds = max((-(-n // size) for n, size in zip(items, blocks, strict=True)), default=0)
    return [
        tuple(min(n, count * size) for n, size in zip(items, blocks, strict=True))
        for count in range(first, rounds)
    ]


def race_over(
    race: Race, items: Mapping[str, np.ndarray], blocks: Sequence[int]
) -> tuple[tuple[int, ...], str] | None:
    """Race a model whose results are known: (items seen of each objective, who beat it), or None.

    Args:
        race: the references and the rule.
        items: metric to float64 [items]; the results of a raced model end where it was given up.
        blocks: items of a block of each objective's task.
    """
    whole = [results.shape[1] for results in race.results]
    for seen in looks(whole, blocks, race.first):
        if any(count > len(items[metric]) for metric, count in zip(race.metrics, seen, strict=True)):
            return None
        so_far = {m: items[m][:count] for m, count in zip(race.metrics, seen, strict=True)}
        winner = beaten_by(race, so_far)
        if winner is not None:
            return seen, winner
    return None


class References:
    """The non-dominated models among those added: whom the next candidates race against."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._values: list[tuple[float, ...]] = []

    def add(self, name: str, outcome: Outcome) -> None:
        """Take a model in; one without complete scores, or that breaks a constraint, is no reference."""
        if not isinstance(outcome, Complete) or any(excess > 0.0 for excess in outcome.violations):
            return
        own = np.array(outcome.values)
        if self._ids:
            others = np.array(self._values)
            if ((others <= own).all(axis=1) & (others < own).any(axis=1)).any():
                return
            left = np.flatnonzero(~((own <= others).all(axis=1) & (own < others).any(axis=1)))
            self._ids = [self._ids[row] for row in left]
            self._values = [self._values[row] for row in left]
        self._ids.append(name)
        self._values.append(outcome.values)

    def chosen(self) -> tuple[str, ...]:
        """Ids in the order in which they came, thinned to `REFERENCES` if there are more."""
        if len(self._ids) <= REFERENCES:
            return tuple(self._ids)
        return tuple(self._ids[row] for row in spread_out(np.array(self._values), REFERENCES))


def spread_out(values: np.ndarray, count: int) -> list[int]:
    """`count` rows that cover a front evenly: the best of each objective, then the farthest one by one.

    Greedy k-centre (Gonzalez 1985) on objectives scaled to [0, 1].

    Args:
        values: float64 [models, objectives].
        count: rows to keep, at least one per objective and at most all.

    Returns:
        Row numbers, ascending.
    """
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    rows = list(dict.fromkeys(int(row) for row in scaled.argmin(axis=0)))
    nearest = np.min([np.square(scaled - scaled[row]).sum(axis=1) for row in rows], axis=0)
    while len(rows) < count:
        nearest[rows] = -1.0
        rows.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(scaled - scaled[rows[-1]]).sum(axis=1))
    return sorted(rows)
