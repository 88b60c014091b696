"""Result events: what the ledger is told of a job that has ended, and of equal merges that share its end.

Plain functions from results and history to events; writing them down is the dispatcher's part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evomerge.ledger.events import EvaluatedEvent, FailedEvent, LostEvent, RacedEvent
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.scores import Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.job import LOST, JobResult
from evomerge.run.open_work import Wanted

MOST_MESSAGE = 2000
"""Characters of a message that are kept."""


def measured_event(
    entry: Wanted,
    key: str,
    result: JobResult,
    items: Mapping[str, ItemReference],
    shared: str | None = None,
) -> EvaluatedEvent | RacedEvent:
    """A candidate with scores, or one that was given up on the way.

    Args:
        entry: what was wanted; its first candidate is meant.
        key: the evaluation key of the items that were answered.
        result: of status `ok` or `raced`.
        items: by evaluator, where its per-item results are stored.
        shared: the campaign that measured it, if that was another.
    """
    measured = result.measured
    assert measured is not None
    if result.status == "raced":
        assert measured.beaten_by is not None
        return RacedEvent(
            id=entry.id,
            recipe=entry.recipe.digest,
            split=entry.split,
            key=key,
            metrics=measured.metrics,
            items=items,
            statistics=measured.statistics,
            seconds=_rounded(result),
            beaten_by=measured.beaten_by,
            seen=measured.seen,
        )
    return EvaluatedEvent(
        id=entry.id,
        recipe=entry.recipe.digest,
        split=entry.split,
        key=key,
        metrics=measured.metrics,
        items=items,
        statistics=measured.statistics,
        seconds=_rounded(result),
        shared=shared,
    )


def same_measured(
    history: History, entry: Wanted, result: JobResult
) -> Iterator[EvaluatedEvent | RacedEvent]:
    """For the equal merges that wanted the same; once the first one's event is in the history."""
    for name, recipe in entry.entries[1:]:
        if result.status == "raced":
            yield same_race(history, name, recipe)
        else:
            yield same_scores(history, name, recipe, entry.key)


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
    known = history.first_scored(key)
    assert known is not None
    owner, first = known
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
