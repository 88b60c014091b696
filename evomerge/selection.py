"""Which candidates are worth scoring on the selection split at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.front_statistics import probability_non_dominated
from evomerge.history import Candidate, History
from evomerge.item_store import ItemStore
from evomerge.objective import Objective, complete
from evomerge.scores import Split

PROBABILITY = 0.1
RESAMPLES = 1000
CLOSE = 4.0


def item_arrays(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], split: Split, store: ItemStore
) -> list[np.ndarray] | None:
    """Per objective a float64 [candidates, items] array; None if some metric has no items."""
    arrays = []
    for objective in objectives:
        evaluator = objective.metric.split(".")[0]
        rows = []
        for candidate in candidates:
            reference = candidate.evaluations[split].items.get(evaluator)
            stored = store.read(reference) if reference is not None else {}
            if objective.metric not in stored:
                return None
            rows.append(stored[objective.metric])
        arrays.append(np.array(rows, dtype=np.float64))
    return arrays


def tasks(objectives: Sequence[Objective]) -> list[str]:
    """Per objective the evaluator it comes from: metrics of one evaluator share their items."""
    return [objective.metric.split(".")[0] for objective in objectives]


def distinct(candidates: Sequence[Candidate], split: Split) -> list[Candidate]:
    """The first candidate of each evaluation key, in order."""
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(candidate.evaluations[split].key, candidate)
    return list(seen.values())


def worth_rescoring(history: History, objectives: Sequence[Objective], store: ItemStore) -> list[str]:
    """Ids whose probability of being non-dominated on search items is at least 0.1.

    Items are resampled jointly for all candidates. Candidates that are dominated by a margin of four
    standard errors in every objective are left out beforehand: they cannot reach the threshold.
    """
    candidates = distinct(history.searched(), "search")
    if not candidates:
        return []
    outcomes = [complete(objectives, c.evaluations["search"].metrics) for c in candidates]
    values = np.array([outcome.values for outcome in outcomes])
    errors = np.array([outcome.errors for outcome in outcomes])
    reach = values - CLOSE * np.maximum(errors, 1e-12)
    hopeless = (values[None, :, :] < reach[:, None, :]).all(axis=2).any(axis=1)
    kept = [c for c, out in zip(candidates, hopeless, strict=True) if not out]
    arrays = item_arrays(kept, objectives, "search", store)
    if arrays is None:
        from evomerge.pareto import non_dominated

        stays = non_dominated(values[~hopeless])
        return [c.id for c, stay in zip(kept, stays, strict=True) if stay]
    signs = [objective.sign for objective in objectives]
    seed = int(history.campaign["config"]["seed"])
    probability = probability_non_dominated(
        arrays, signs, resamples=RESAMPLES, seed=seed, tasks=tasks(objectives)
    )
    return [c.id for c, p in zip(kept, probability, strict=True) if p >= PROBABILITY]
