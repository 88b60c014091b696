"""What was told, as arrays for a model to learn from, on one scale.

An optimizer does not know how its candidates will be judged, so the scale is made of what it was told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objectives.objective import Complete, Outcome
from evomerge.objectives.pareto import non_dominated
from evomerge.objectives.steering import steering
from evomerge.optimizers.grid import as_rows
from evomerge.search_space import Genome


@dataclass(frozen=True, eq=False)
class Told:
    """Complete candidates, in the order told.

    Attributes:
        genomes: float64 [n, genes].
        values: what steers each objective, `scaled`; float64 [n, objectives].
        used: of each objective, whether that is its smooth or its reported value.
        broken: violations, above 0 where a bound is broken; float64 [n, bounds].
        keep: bool [n], which keep all bounds.
    """

    genomes: np.ndarray
    values: np.ndarray
    used: tuple[str, ...]
    broken: np.ndarray
    keep: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """Indices of the front of those that keep all bounds, or of the one that breaks them least."""
        kept = np.flatnonzero(self.keep)
        if not len(kept):
            return np.argsort(np.maximum(self.broken, 0.0).sum(axis=1), kind="stable")[:1]
        found: np.ndarray = kept[non_dominated(self.values[kept])]
        return found

    @property
    def bounds(self) -> dict[int, np.ndarray]:
        """By the number of a bound that anything was seen of, violations in [-1, 1], float64 [n]."""
        largest = np.abs(self.broken).max(axis=0).tolist()
        return {k: self.broken[:, k] / most for k, most in enumerate(largest) if most > 0.0}


def of_kind(told: Sequence[tuple[Genome, Outcome]], kind: type[Outcome], genes: int) -> np.ndarray:
    """Genomes with an outcome of a kind, float64 [n, genes]."""
    return as_rows([genome for genome, outcome in told if isinstance(outcome, kind)], genes)


def learned(
    told: Sequence[tuple[Genome, Outcome]],
    initial: Collection[Genome],
    genes: int,
    deciding: Sequence[Complete] = (),
    *,
    asks_again: bool = True,
) -> Told | None:
    """Complete candidates; None if there are none.

    Args:
        told: all that was told.
        initial: the genomes given to start from.
        genes: their number.
        deciding: of candidates that are not among `told`; see `steering`.
        asks_again: see `Asked`; steered as in earlier versions, where all must have smooth values and
            `deciding` has no say.
    """
    complete = [(genome, outcome) for genome, outcome in told if isinstance(outcome, Complete)]
    if not complete:
        return None
    outcomes = [outcome for _, outcome in complete]
    steered = steering(outcomes, share=1.0) if asks_again else steering(outcomes, deciding)
    keep = np.array([all(v <= 0.0 for v in outcome.violations) for outcome in outcomes])
    given = np.array([genome in initial for genome, _ in complete])
    return Told(
        as_rows([genome for genome, _ in complete], genes),
        scaled(steered.values, given, keep),
        tuple(choice.used for choice in steered.choices),
        np.array([outcome.violations for outcome in outcomes], dtype=np.float64),
        keep,
    )


def scaled(values: np.ndarray, given: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Values with 0 for the best and 1 for the worst of the front and of the `given` (bool [n]).

    What is worse than that is drawn together by a logarithm: how bad a bad merge is tells nothing about the
    good ones. `keep` (bool [n]): which keep all bounds; the others are left out of the scale.
    """
    good = values[keep] if keep.any() else values
    ideal = good.min(axis=0)
    nadir = np.concatenate([good[non_dominated(good)], values[given]]).max(axis=0)
    unit = (values - ideal) / np.where(nadir > ideal, nadir - ideal, 1.0)
    found: np.ndarray = np.where(unit > 1.0, 1.0 + np.log1p(np.maximum(unit - 1.0, 0.0)), unit)
    return found
