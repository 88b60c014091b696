"""Bounds: what the constraints of a campaign amount to once its baselines are known, and who keeps them."""

from __future__ import annotations

from collections.abc import Iterable

from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives.constraint import Bound, broken


def bounds_of(history: History, split: str = "search") -> tuple[Bound, ...]:
    """The constraints' bounds, once the baselines are known; empty without constraints.

    On search items they are those frozen in the `baselines` event. On another split a bound relative
    to a model follows from that model's score on the same split, where it has one.
    """
    if history.baselines is None:
        return ()
    frozen = history.baselines.bounds
    if split == "search" or not frozen:
        return frozen
    known = {
        name: candidate.evaluations[split].metrics
        for name, candidate in history.candidates.items()
        if candidate.is_baseline and split in candidate.evaluations
    }
    return tuple(
        bound if constraint.of not in (None, *known) else constraint.bound(known)
        for bound, constraint in zip(frozen, history.stated.constraints, strict=True)
    )


def told_bounds(history: History, asker: int | None) -> tuple[Bound, ...]:
    """What an optimizer is to keep: the constraints; the campaign's own one (None) also its region."""
    return bounds_of(history) + (history.stated.region if asker is None else ())


def feasible(
    history: History, candidates: Iterable[Candidate], split: str = "search"
) -> list[Candidate]:
    """Those of `candidates`, all with scores on `split`, that keep every constraint there."""
    bounds = bounds_of(history, split)
    if not bounds:
        return list(candidates)
    return [c for c in candidates if not broken(bounds, c.evaluations[split].metrics)]
