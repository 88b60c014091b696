"""How far a front may be believed: how much its search scores flatter, and how sure its hypervolume is.

Models are chosen because they did well on search items, so part of their lead is luck on those items. It
shows on items that the search never saw. Everything here is computed from stored per-item results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.front.selection import distinct, item_arrays, tasks
from evomerge.front.statistics import Interval, Optimism, hypervolume_interval, optimism
from evomerge.ledger.bounds import feasible
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.measures import BaselineKind, alike, baseline_kind
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.pareto import non_dominated
from evomerge.objectives.scores import Split

DIGITS = 6
"""Digits kept: fewer than what the order of adding could change."""

CHOSEN: tuple[BaselineKind, ...] = ("single", "soup")
"""Baselines that are the best of several by their search scores."""


@dataclass(frozen=True)
class FrontUncertainty:
    """What the items say of a front. Intervals are 95 % percentile intervals over items.

    Attributes:
        hypervolume: of the front on each split that is scored; `value` is the measured one.
        best_on_search: models that no other one dominated on search items, among those scored on both.
        optimism: by how much these scored better on search items than on selection items, per objective
            in the metrics' units, and as a mean, which says something where the objectives are `alike` only;
            None before the selection phase.
        shrinkage: the same of their lead over the baselines that were not chosen by their scores: what makes
            one split easier for all models cancels, and selection bias is left. The best single coefficient
            and the greedy soup were chosen on search items, and have a bias of their own.
    """

    hypervolume: Mapping[str, Interval]
    best_on_search: tuple[str, ...]
    optimism: Optimism | None
    shrinkage: Optimism | None
    objectives: tuple[Objective, ...]

    @property
    def has_mean(self) -> bool:
        """Whether optimism over all objectives is one number: amounts of several units have no mean."""
        return len(self.objectives) == 1 or alike(self.objectives)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data; `mean` is None where objectives are not `alike`."""
        return {
            "hypervolume": {split: _interval(found) for split, found in self.hypervolume.items()},
            "best_on_search": list(self.best_on_search),
            "optimism": self._json(self.optimism),
            "shrinkage": self._json(self.shrinkage),
        }

    def _json(self, found: Optimism | None) -> dict[str, Any] | None:
        if found is None:
            return None
        named = zip(self.objectives, found.objectives, strict=True)
        return {
            "objectives": {objective.metric: _interval(own) for objective, own in named},
            "mean": _interval(found.mean) if self.has_mean else None,
        }


def _interval(found: Interval) -> dict[str, float]:
    return {name: round(getattr(found, name), DIGITS) for name in ("value", "low", "high")}


def front_uncertainty(
    history: History,
    store: ItemStore,
    objectives: Sequence[Objective],
    scaling: Scaling,
    splits: Sequence[Split],
) -> FrontUncertainty:
    """The statistics of a history's front.

    Args:
        history: with frozen baselines.
        store: its per-item results.
        objectives: the campaign's.
        scaling: the campaign's.
        splits: those that are scored, `search` first.

    Raises:
        LedgerDamaged: E502, if per-item results cannot be read.
    """
    seed = history.stated.seed
    signs, named = [objective.sign for objective in objectives], tasks(objectives)
    volumes: dict[str, Interval] = {}
    for split in splits:
        arrays = item_arrays(_best(history, objectives, split), objectives, split, store)
        if arrays is not None and len(arrays[0]):
            volumes[split] = hypervolume_interval(arrays, signs, scaling, seed=seed, tasks=named)
    chosen: list[Candidate] = []
    flattery = shrinkage = None
    if "selection" in splits:
        chosen = [c for c in _best(history, objectives, "search") if "selection" in c.evaluations]
        before, after = (_mean_rows(chosen, objectives, s, store) for s in ("search", "selection"))
        if before is not None and after is not None:
            flattery = optimism(before, after, signs, seed=seed, tasks=named)
            names = [n for n in history.reference_ids() if baseline_kind(n) not in CHOSEN]
            others = [history.candidates[name] for name in names]
            others = [c for c in others if {"search", "selection"} <= set(c.evaluations)]
            first, second = (_mean_rows(others, objectives, s, store) for s in ("search", "selection"))
            if first is not None and second is not None:
                lead = [x - y for x, y in zip(before, first, strict=True)]
                later = [x - y for x, y in zip(after, second, strict=True)]
                shrinkage = optimism(lead, later, signs, seed=seed, tasks=named)
    return FrontUncertainty(
        volumes, tuple(c.id for c in chosen), flattery, shrinkage, tuple(objectives)
    )


def _best(history: History, objectives: Sequence[Objective], split: Split) -> list[Candidate]:
    """The non-dominated feasible candidates on a split, each merge once."""
    scored = [c for c in history.searched() if split in c.evaluations]
    if split == "selection":
        scored = [c for c in scored if c.id in set(history.selection or ())]
    pool = feasible(history, distinct(scored, split), split)
    if not pool:
        return []
    values = [complete(objectives, c.evaluations[split].metrics).values for c in pool]
    stays = non_dominated(np.array(values))
    return [c for c, stay in zip(pool, stays, strict=True) if stay]


def _mean_rows(
    models: Sequence[Candidate], objectives: Sequence[Objective], split: Split, store: ItemStore
) -> list[np.ndarray] | None:
    """Per objective the mean over models of their results, float64 [1, items]; None without any."""
    arrays = item_arrays(models, objectives, split, store) if models else None
    return None if arrays is None else [array.mean(axis=0, keepdims=True) for array in arrays]
