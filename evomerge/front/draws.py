"""Resampled scores of a front and the baselines beside it: what every probability of a decision is read from.

All models answered the same items, and these are resampled jointly for all of them (see `statistics`), once:
so probabilities of different claims fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evomerge.front.front import Front
from evomerge.front.selection import RESAMPLES, item_arrays, tasks
from evomerge.front.statistics import resampled_means
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore


@dataclass(frozen=True, eq=False)
class Draws:
    """Scores of some models under resampling of items.

    `ids`: of the models; `means`: float64 [resamples, models, objectives], minimised form, metric units.
    """

    ids: tuple[str, ...]
    means: np.ndarray

    def of(self, name: str) -> np.ndarray | None:
        """Float64 [resamples, objectives] of one model; None if it is not among them."""
        return self.means[:, self.places[name]] if name in self.places else None

    @cached_property
    def places(self) -> dict[str, int]:
        """Column of `means` by id."""
        return {name: place for place, name in enumerate(self.ids)}


def draw(front: Front, history: History, store: ItemStore) -> Draws | None:
    """Resampled scores on the deciding split of all members, and of the baselines that have scores there.

    None where an objective is no mean over items, or has no per-item results.

    Raises:
        LedgerDamaged: E502, if per-item results cannot be read.
    """
    every = [history.candidates[member.id] for member in (*front.members, *front.references)]
    known = [candidate for candidate in every if front.split in candidate.evaluations]
    arrays = item_arrays(known, front.objectives, front.split, store) if known else None
    if arrays is None:
        return None
    signs = [objective.sign for objective in front.objectives]
    seed, named = history.stated.seed, tasks(front.objectives)
    means = resampled_means(arrays, signs, resamples=RESAMPLES, seed=seed, tasks=named)
    return Draws(tuple(candidate.id for candidate in known), means)
