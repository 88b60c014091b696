"""Which candidates are worth scoring on the selection split at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.front.statistics import probability_non_dominated
from evomerge.ledger.bounds import bounds_of, feasible
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.failed_slopes import has_gradients
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.constraint import excess
from evomerge.objectives.objective import Objective, complete
from evomerge.objectives.pareto import non_dominated
from evomerge.objectives.scores import Split

PROBABILITY = 0.1
RESAMPLES = 1000
MARGIN = 3.0
AT_ONCE = 300
"""Most candidates whose dominance is resampled together; work grows with the square."""

SIEVE_RESAMPLES = 200

LEARNED = 200
"""So many are scored where a map was fitted to search items, which flatter its points."""


def item_arrays(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], split: Split, store: ItemStore
) -> list[np.ndarray] | None:
    """Per objective a float64 [candidates, items] array; None if some metric has no items."""
    arrays = []
    for objective in objectives:
        evaluator = objective.metric.split(".")[0]
        references = [candidate.evaluations[split].items.get(evaluator) for candidate in candidates]
        known = [reference for reference in references if reference is not None]
        if len(known) < len(references):
            return None
        rows = []
        for stored in store.read_all(known):
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

    Where a map was fitted to these items, they hardly tell its points apart: others that no other beats by a
    wide margin follow in the order asked, up to `LEARNED` in all.

    Only candidates that keep all constraints count; where none does, those that break them least are taken.
    Items are resampled jointly for all candidates. Two sieves come first, so that thousands of
    candidates cost neither their square in memory nor in time: who is beaten by a wide margin (see
    `hopeless`), and who is hardly ever non-dominated beside today's front alone.
    """
    searched = distinct(history.searched(), "search")
    candidates = feasible(history, searched)
    if not candidates:
        return _least_violating(history, searched)
    outcomes = [complete(objectives, c.evaluations["search"].metrics) for c in candidates]
    values = np.array([outcome.values for outcome in outcomes])
    errors = np.array([outcome.errors for outcome in outcomes])
    stays = ~hopeless(values, errors)
    kept = [c for c, stay in zip(candidates, stays, strict=True) if stay]
    front = non_dominated(values[stays])
    arrays = item_arrays(kept, objectives, "search", store)
    if arrays is None:
        return _with_learned(history, kept, np.flatnonzero(front))
    signs = [objective.sign for objective in objectives]
    seed = history.stated.seed

    def probability(rows: np.ndarray, resamples: int) -> np.ndarray:
        chosen = [array[rows] for array in arrays]
        return probability_non_dominated(
            chosen, signs, resamples=resamples, seed=seed, tasks=tasks(objectives)
        )

    rows = np.arange(len(kept))
    if len(kept) > AT_ONCE:
        best, rest = np.flatnonzero(front), np.flatnonzero(~front)
        passed = [best]
        for start in range(0, len(rest), AT_ONCE):
            some = rest[start : start + AT_ONCE]
            beside = probability(np.concatenate([best, some]), SIEVE_RESAMPLES)[len(best) :]
            passed.append(some[beside >= PROBABILITY / 2])
        rows = np.sort(np.concatenate(passed))
    likely = probability(rows, RESAMPLES) >= PROBABILITY
    return _with_learned(history, kept, rows[likely])


def _with_learned(history: History, kept: Sequence[Candidate], chosen: np.ndarray) -> list[str]:
    """The chosen, int64 [n] among all that were kept, and others where search items were learned from."""
    wanted = set(chosen.tolist())
    if has_gradients(history):
        others = [row for row in range(len(kept)) if row not in wanted]
        wanted.update(others[: max(0, LEARNED - len(wanted))])
    return [kept[row].id for row in sorted(wanted)]


def _least_violating(history: History, candidates: Sequence[Candidate]) -> list[str]:
    bounds = bounds_of(history)
    amounts = {c.id: excess(bounds, c.evaluations["search"].metrics) for c in candidates}
    return [name for name, amount in amounts.items() if amount == min(amounts.values())]


def hopeless(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Which candidates some other one beats by a margin of three standard errors in every objective.

    Independent errors are assumed for the difference; results on the same items mostly vary less. Only
    non-dominated candidates are tried as the better one, which keeps memory linear.

    Args:
        values: float64 [candidates, objectives], minimised.
        errors: their standard errors, same shape.

    Returns:
        bool [candidates].
    """
    best = non_dominated(values)
    beaten = np.zeros(len(values), dtype=bool)
    for value, error in zip(values[best], errors[best], strict=True):
        margin = MARGIN * np.hypot(errors, error)
        beaten |= ((values - value > margin) & (values > value)).all(axis=1)
    return beaten
