"""Events that say what became of a candidate or a baseline: scores, a race, a failure, a lost worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.ledger.events.event import Event
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.scores import Metric, Split


@dataclass(frozen=True, kw_only=True)
class ResultEvent(Event):
    """What all results have.

    Attributes:
        id: of the candidate or baseline.
        recipe: digest of its recipe.
        split: whose items were scored.
    """

    id: str
    recipe: str
    split: Split = "search"


@dataclass(frozen=True, kw_only=True)
class ScoredEvent(ResultEvent):
    """A result with scores, of all items (`EvaluatedEvent`) or of some (`RacedEvent`).

    Attributes:
        key: evaluation key; see `Dispatcher.key`.
        metrics: `EVALUATOR.METRIC` to score.
        items: by evaluator, where its per-item results lie.
        statistics: numbers about the merge itself (`l1`, `l2`, `tensors_written`).
        seconds: phase to wall seconds; empty where the scores are another's.
        same_as: the id of the same merge that was scored first, if that was another.
        shared: the campaign that measured it, where it was found in a folder of shared results.
    """

    key: str
    metrics: Mapping[str, Metric]
    items: Mapping[str, ItemReference]
    statistics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    same_as: str | None = None
    shared: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluatedEvent(ScoredEvent):
    """The scores of one model on one split."""

    kind = "evaluated"


@dataclass(frozen=True, kw_only=True)
class RacedEvent(ScoredEvent):
    """A candidate given up after some items, with what it scored on them.

    Attributes:
        beaten_by: the reference it lost to.
        seen: by evaluator, how many items it has answered.
    """

    kind = "raced"

    beaten_by: str
    seen: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class FailedEvent(ResultEvent):
    """A candidate without scores, for good.

    Attributes:
        key: evaluation key.
        failure: class of the failure; see `JobResult`.
        message: one line for people.
        same_as: the id of the same merge that failed first, if that was another.
        traceback: the end of the worker's, of an unforeseen failure.
    """

    kind = "failed"

    key: str
    failure: str
    message: str
    same_as: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True)
class LostEvent(ResultEvent):
    """An attempt that was lost with its worker and may be tried again; fields as in `FailedEvent`.

    `seconds` is how long it had run; not in ledgers from before 2026-12.
    """

    kind = "lost"

    failure: str
    message: str = ""
    seconds: float | None = None
