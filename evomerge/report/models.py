"""Every model a campaign has judged, as columns of plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.front.descent import descent_words
from evomerge.front.front import Front
from evomerge.front.tables import labels
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import AskedEvent, Event, FailedEvent, RacedEvent, ScoredEvent
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.measures import baseline_kind
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import SPLITS, Metric, Split

DIGITS = 10
"""Significant digits of scores in the page: bounds are kept or not as on the command line."""

NEIGHBOURS = 3


def state_of(front: Front, candidate: Candidate) -> str:
    """`baseline`, `member`, `failed`, `raced`, `scored`, or `waiting` where nothing is known yet."""
    if candidate.is_baseline:
        return "baseline"
    if any(member.id == candidate.id for member in front.members):
        return "member"
    if candidate.failure is not None:
        return "failed"
    if candidate.raced is not None:
        return "raced"
    return "scored" if "search" in candidate.evaluations else "waiting"


def models_json(front: Front, history: History, events: Sequence[Event]) -> dict[str, Any]:
    """Columns over all models, baselines and members of the front first.

    Returns:
        `id`, `state`, `label`, `batch`, `seconds` (when it was settled) one a model; `scores` split to
        objective
        to `[value, standard error]` or None; `probability`, `scaled` and `equals` for members.
    """
    members = {member.id: member for member in front.members}
    shown = dict.fromkeys([*members, *(reference.id for reference in front.references)])
    ids = [*shown, *(name for name in history.candidates if name not in shown)]
    every = [history.candidates[name] for name in ids]
    beside, settled = labels(front), settled_at(events)
    return {
        "id": ids,
        "state": _states(front, every),
        "label": [beside.get(name, "") for name in ids],
        "batch": [candidate.generation for candidate in every],
        "seconds": [settled.get(name) for name in ids],
        "scores": {
            split: [_column(every, objective, split) for objective in front.objectives]
            for split in SPLITS
            if any(split in candidate.evaluations for candidate in every)
        },
        "probability": [members[name].probability if name in members else None for name in ids],
        "scaled": [list(member.scaled) for member in front.members],
        "recipe": [candidate.recipe for candidate in every],
        "message": {c.id: f"{c.failure}: {c.message}" for c in every if c.failure is not None}
        | {c.id: f"given up, {c.beaten_by} is better" for c in every if c.raced is not None},
    }


def _states(front: Front, every: Sequence[Candidate]) -> list[str]:
    members = {member.id for member in front.members}
    return ["member" if c.id in members else state_of(front, c) for c in every]


def _column(every: Sequence[Candidate], objective: Objective, split: Split) -> list[list[float] | None]:
    found = (_metric(candidate, objective, split) for candidate in every)
    return [None if m is None else [_short(m.value), _short(m.stderr)] for m in found]


def _metric(candidate: Candidate, objective: Objective, split: Split) -> Metric | None:
    evaluation = candidate.evaluations.get(split)
    if evaluation is None and split == "search":
        evaluation = candidate.raced
    return None if evaluation is None else evaluation.metrics.get(objective.metric)


def _short(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def settled_at(events: Sequence[Event]) -> dict[str, float]:
    """Id to the running time in seconds at which its search result was recorded."""
    found: dict[str, float] = {}
    for event in events:
        if isinstance(event, ScoredEvent | RacedEvent | FailedEvent) and event.split == "search":
            found[event.id] = round(event.elapsed or 0.0, 1)
    return found


def asked_at(events: Sequence[Event]) -> list[float]:
    """For each batch the running time in seconds at which it was asked."""
    return [round(event.elapsed or 0.0, 1) for event in events if isinstance(event, AskedEvent)]


def best_experts(front: Front) -> dict[str, str]:
    """Metric to the expert that is best at it on the deciding split."""
    experts = [
        r for r in front.references if baseline_kind(r.id) == "expert" and front.split in r.metrics
    ]
    if not experts:
        return {}
    return {
        o.metric: min(experts, key=lambda e, o=o: o.sign * e.metrics[front.split][o.metric].value).id  # type: ignore[misc]
        for o in front.objectives
    }


def items_against_experts(front: Front, history: History, store: ItemStore) -> dict[str, Any]:
    """Items won and lost against the best expert of each objective, by recorded per-item results.

    Returns:
        `expert`: metric to the expert's id; `split`; `counts`: id to one `[won, lost, same]` an objective,
        None
        where there are no per-item results.
    """
    experts, split = best_experts(front), front.split
    found: dict[str, Any] = {"expert": experts, "split": split, "counts": {}}
    if not experts:
        return found
    against = [_items(history.candidates[experts[o.metric]], o, split, store) for o in front.objectives]
    for candidate in history.candidates.values():
        if split not in candidate.evaluations:
            continue
        found["counts"][candidate.id] = [
            _won(_items(candidate, objective, split, store), other, objective.sign)
            for objective, other in zip(front.objectives, against, strict=True)
        ]
    return found


def _items(
    candidate: Candidate, objective: Objective, split: Split, store: ItemStore
) -> np.ndarray | None:
    reference = candidate.evaluations[split].items.get(objective.metric.split(".")[0])
    return None if reference is None else store.read(reference).get(objective.metric)


def _won(own: np.ndarray | None, other: np.ndarray | None, sign: float) -> list[int] | None:
    if own is None or other is None or own.shape != other.shape:
        return None
    gap = sign * (own - other)
    return [int((gap < 0).sum()), int((gap > 0).sum()), int((gap == 0).sum())]


def origins_json(history: History) -> dict[str, Any]:
    """How candidates came about, as recorded when they were asked for.

    Returns:
        `words`: phrases with `PARENTS` where ids stand; `of`: id to the index of its phrase and its parents.
        Candidates of which nothing is recorded are left out.
    """
    words: dict[str, int] = {}
    found: dict[str, list[Any]] = {}
    for candidate in history.candidates.values():
        if candidate.origin is not None:
            text = descent_words(history, candidate)
            number = words.setdefault(text[:1].upper() + text[1:], len(words))
            found[candidate.id] = [number, *(candidate.origin.parents or ())]
    return {"words": list(words), "of": found}


def nearest_earlier(
    front: Front, history: History, spans: np.ndarray
) -> Mapping[str, list[tuple[str, float]]]:
    """Of each member the candidates of earlier batches whose coefficients are nearest.

    Ledgers before 2026-12 name no parents: this is where a member may have come from, by its coefficients.

    Args:
        front: whose members.
        history: of the campaign.
        spans: high minus low of each gene, float64 [genes].

    Returns:
        Id to up to three (id, root mean square difference of coefficients as a share of their range).
    """
    asked = [c for c in history.candidates.values() if c.genome is not None]
    if not asked or len(spans) == 0:
        return {}
    points = np.array([c.genome for c in asked]) / np.where(spans > 0, spans, 1.0)
    batches = np.array([c.generation for c in asked])
    index = {candidate.id: row for row, candidate in enumerate(asked)}
    found = {}
    for member in front.members:
        row = index[member.id]
        earlier = np.flatnonzero(batches < batches[row])
        gaps = np.sqrt(np.mean((points[earlier] - points[row]) ** 2, axis=1))
        order = np.argsort(gaps, kind="stable")[:NEIGHBOURS]
        found[member.id] = [(asked[earlier[k]].id, _short(float(gaps[k]), 3)) for k in order]
    return found


def inherited(front: Front, history: History) -> Mapping[str, tuple[int, list[tuple[str, int]]]]:
    """Of each member the two earlier candidates that have most of its coefficients, value for value.

    Read off the coefficients, for ledgers that name no parents (before 2026-12): operators that cross two
    candidates copy values, so that a child shows whose they are; a mutation or a model makes new ones.

    Returns:
        Id to its number of coefficients and up to two (id, how many stand in it and in none named before).
        Members of which fewer than half stand in two earlier ones are left out.
    """
    asked = [c for c in history.candidates.values() if c.genome is not None]
    if not asked:
        return {}
    points = np.array([c.genome for c in asked])
    batches = np.array([c.generation for c in asked])
    index = {candidate.id: row for row, candidate in enumerate(asked)}
    found = {}
    for member in front.members:
        row = index[member.id]
        earlier = np.flatnonzero(batches < batches[row])
        same = points[earlier] == points[row]
        parents: list[tuple[str, int]] = []
        for _ in range(2 if len(earlier) else 0):
            most = int(np.argmax(same.sum(axis=1)))
            shared = int(same[most].sum())
            if shared:
                parents.append((asked[earlier[most]].id, shared))
                same = same & ~same[most]
        if 2 * sum(shared for _, shared in parents) >= points.shape[1] > 1:
            found[member.id] = (points.shape[1], parents)
    return found
