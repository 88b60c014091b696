"""Result events: what the ledger is told of a job that has ended, and of equal merges that share its end.

Plain functions from results and history to events; writing them down is the dispatcher's part.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.ledger.events import EvaluatedEvent, FailedEvent, LostEvent, RacedEvent
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.job import LOST, JobResult

MOST_MESSAGE = 2000
"""Characters of a message that are kept."""


def evaluated_event(
    name: str,
    recipe: Recipe,
    split: Split,
    key: str,
    result: JobResult,
    items: Mapping[str, ItemReference],
    shared: str | None = None,
) -> EvaluatedEvent:
    """A candidate with scores.

    Args:
        name: id of the candidate.
        recipe: its recipe.
        split: whose items were scored.
        key: its evaluation key.
        result: of status `ok`.
        items: by evaluator, where its per-item results are stored.
        shared: the campaign that measured it, if that was another.
    """
    measured = result.measured
    assert measured is not None
    return EvaluatedEvent(
        id=name,
        recipe=recipe.digest,
        split=split,
        key=key,
        metrics=measured.metrics,
        items=items,
        statistics=measured.statistics,
        seconds=_rounded(result),
        shared=shared,
    )


def raced_event(
    name: str,
    recipe: Recipe,
    split: Split,
    key: str,
    result: JobResult,
    items: Mapping[str, ItemReference],
) -> RacedEvent:
    """A candidate given up on the way: `result` is of status `raced`, `key` that of the items it answered."""
    measured = result.measured
    assert measured is not None
    assert measured.beaten_by is not None
    return RacedEvent(
        id=name,
        recipe=recipe.digest,
        split=split,
        key=key,
        metrics=measured.metrics,
        items=items,
        statistics=measured.statistics,
        seconds=_rounded(result),
        beaten_by=measured.beaten_by,
        seen=measured.seen,
    )


def _rounded(result: JobResult) -> dict[str, float]:
    return {phase: round(seconds, 4) for phase, seconds in result.seconds.items()}


def failed_event(name: str, recipe: Recipe, split: Split, key: str, result: JobResult) -> FailedEvent:
    """No scores, for good."""
    return FailedEvent(
        id=name,
        recipe=recipe.digest,
        split=split,
        key=key,
        failure=result.failure,
        message=result.message[:MOST_MESSAGE],
        traceback=result.traceback or None,
    )


def lost_event(name: str, recipe: Recipe, split: Split, result: JobResult) -> LostEvent:
    """An attempt that ended with its worker."""
    return LostEvent(
        id=name,
        recipe=recipe.digest,
        split=split,
        failure=result.failure,
        message=result.message[:MOST_MESSAGE],
        seconds=round(result.seconds[LOST], 3) if LOST in result.seconds else None,
    )


def same_scores(history: History, name: str, recipe: Recipe, key: str) -> EvaluatedEvent:
    """The same merge under another id: its scores are those of the first."""
    owner, first = history.by_key[key]
    return EvaluatedEvent(
        id=name,
        recipe=recipe.digest,
        split=first.split,
        key=first.key,
        metrics=first.metrics,
        items=first.items,
        statistics=first.statistics,
        same_as=owner,
    )


def same_race(history: History, name: str, recipe: Recipe) -> RacedEvent:
    """The same merge under another id, which is as beaten as the first."""
    owner = history.candidates[history.raced_as[recipe.digest]]
    assert owner.raced is not None
    assert owner.beaten_by is not None
    return RacedEvent(
        id=name,
        recipe=recipe.digest,
        split=owner.raced.split,
        key=owner.raced.key,
        metrics=owner.raced.metrics,
        items=owner.raced.items,
        statistics=owner.raced.statistics,
        same_as=owner.id,
        beaten_by=owner.beaten_by,
        seen=owner.seen,
    )


def same_failure(history: History, name: str, recipe: Recipe, key: str) -> FailedEvent:
    """The same merge under another id: it failed as the first did."""
    first = history.failed_by_key[key]
    return FailedEvent(
        id=name,
        recipe=recipe.digest,
        split=first.split,
        key=first.key,
        failure=first.failure,
        message=first.message,
        same_as=first.id,
    )
