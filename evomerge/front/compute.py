"""The front of a history: which complete evaluations nobody dominates, on the split that decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.errors import GO_ON, Problem, UsageError
from evomerge.front.front import Front, Member
from evomerge.front.selection import RESAMPLES, distinct, item_arrays, tasks
from evomerge.front.statistics import probability_non_dominated
from evomerge.ledger.bounds import bounds_of, feasible
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.failed_slopes import failed_slopes, measured_slopes
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.pareto import hypervolume, non_dominated
from evomerge.objectives.scores import Split
from evomerge.objectives.steering import SHARE, Choice, steering


def compute_front(history: History, store: ItemStore) -> Front:
    """The front of a history.

    Raises:
        UsageError: E507, if no baseline has been evaluated yet, so that nothing can be compared.
    """
    scaling = history.scaling
    if scaling is None:
        raise UsageError(
            Problem("E507", "there is no front yet", "the baselines are not evaluated", GO_ON)
        )
    objectives = history.stated.objectives
    split = _deciding_split(history)
    parts: tuple[Split, ...] = ("search",) if split == "search" else ("search", "selection")
    judged = distinct(_scored(history, split), split)
    pool = feasible(history, judged, split)
    values = _values(pool, objectives, split)
    stays = non_dominated(values) if pool else np.zeros(0, dtype=bool)
    chosen = [c for c, stay in zip(pool, stays, strict=True) if stay]
    # A model that luck took off the front would as soon be on it. Before the selection there may be
    # thousands, which would take too long.
    rivals = pool if split == "selection" else chosen
    found = _probabilities(rivals, objectives, split, store, history.stated.seed)
    likely = dict(zip((candidate.id for candidate in rivals), found, strict=True))
    equal = history.baselines_by_recipe()
    choices = _steering(history, objectives)
    members = [
        _member(
            candidate, objectives, scaling, split, likely[candidate.id], equal.get(candidate.recipe, ())
        )
        for candidate in chosen
    ]
    members.sort(key=lambda member: (sum(member.scaled), member.id))
    return Front(
        campaign=history.stated.name,
        split=split,
        objectives=objectives,
        members=tuple(members),
        references=tuple(
            _member(history.candidates[name], objectives, scaling, split)
            for name in history.reference_ids()
        ),
        scaling=scaling,
        hypervolume={part: _hypervolume(history, objectives, scaling, part) for part in parts},
        evaluations=history.budget_used,
        free=history.free,
        failures=history.failures(),
        bounds=bounds_of(history, split),
        infeasible=len(judged) - len(pool),
        raced=history.raced,
        slopes=measured_slopes(history),
        slopes_failed=len(failed_slopes(history)),
        slope_cost=history.slope_cost,
        failed_baselines={
            name: f"{c.failure}: {c.message}"
            for name, c in history.candidates.items()
            if c.is_baseline and c.failure is not None
        },
        steering=choices,
        is_steered=bool(choices) and _smooth_share(history) is not None,
    )


def shown_beside(history: History, name: str, split: Split) -> Member:
    """A scored candidate as a front would show it, whether it is a member or not.

    Raises:
        KeyError: if it has no scores on search items.
    """
    objectives, scaling = history.stated.objectives, history.scaling
    assert scaling is not None, "candidates are asked for after the baselines"
    candidate = history.candidates[name]
    return _member(candidate, objectives, scaling, split, equals=history.baselines_equal_to(candidate))


def _steering(history: History, objectives: Sequence[Objective]) -> tuple[Choice, ...]:
    searched = distinct(history.searched(), "search")
    outcomes = [complete(objectives, c.evaluations["search"].metrics) for c in searched]
    if not any(outcome.smooth for outcome in outcomes):
        return ()
    return steering(outcomes, share=_smooth_share(history) or SHARE).choices


def _smooth_share(history: History) -> float | None:
    """As `CampaignEvent.smooth_share`; a refinement goes by a surrogate, whatever the campaign began with."""
    return history.stated.smooth_share or (SHARE if history.refinements else None)


def _hypervolume(
    history: History, objectives: Sequence[Objective], scaling: Scaling, split: Split
) -> float:
    kept = feasible(history, _scored(history, split), split)
    return hypervolume(scaling.scale(_values(kept, objectives, split)))


def _deciding_split(history: History) -> Split:
    if history.selection is None:
        return "search"
    wanted = (*history.selection, *history.reference_ids())
    done = all(
        "selection" in {*history.candidates[name].evaluations, *history.candidates[name].failed_splits}
        for name in wanted
    )
    return "selection" if done else "search"


def _scored(history: History, split: Split) -> list[Candidate]:
    """Candidates with scores on a split; on `selection` only those the last selection chose.

    A campaign whose budget grew has scores of earlier selections, which one run to the end has not.
    """
    found = [c for c in history.searched() if split in c.evaluations]
    chosen = set(history.selection or ())
    return [c for c in found if c.id in chosen] if split == "selection" else found


def _values(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], split: Split
) -> np.ndarray:
    scores = (candidate.evaluations[split].metrics for candidate in candidates)
    rows = [[o.sign * metrics[o.metric].value for o in objectives] for metrics in scores]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def _probabilities(
    models: Sequence[Candidate],
    objectives: Sequence[Objective],
    split: Split,
    store: ItemStore,
    seed: int,
) -> list[float | None]:
    arrays = item_arrays(models, objectives, split, store) if models else None
    if arrays is None:
        return [None] * len(models)
    signs = [objective.sign for objective in objectives]
    found = probability_non_dominated(
        arrays, signs, resamples=RESAMPLES, seed=seed, tasks=tasks(objectives)
    )
    return [round(float(p), 4) for p in found]


def _member(
    candidate: Candidate,
    objectives: Sequence[Objective],
    scaling: Scaling,
    split: Split,
    probability: float | None = None,
    equals: tuple[str, ...] = (),
) -> Member:
    # A baseline that could not be scored on the deciding split still has search scores.
    known = split if split in candidate.evaluations else "search"
    scaled = scaling.scale(_values([candidate], objectives, known))[0]
    return Member(
        id=candidate.id,
        recipe=candidate.recipe,
        metrics={s: dict(e.metrics) for s, e in sorted(candidate.evaluations.items())},
        scaled=tuple(scaled.tolist()),
        probability=probability,
        equals=equals,
        origin=candidate.origin,
    )
