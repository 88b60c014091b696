"""Events: what a ledger can say, each kind a frozen dataclass whose fields are those of its JSON object.

A campaign's events, in the order in which they first appear: `campaign`, `granted`, `prepared`, `evaluated`
(the baselines), `baselines`; then, batch by batch, `asked`, the results (`evaluated`, `raced`, `failed`,
`lost`) and `told`; between batches, of optimizers that learn from gradients, `slope`; at the end `selection`,
more `evaluated`, `stopped`. A finished campaign may be gone on with near a preference: `refine`, and the
same again.

In JSON an event has its `kind` under `event`; what is None is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Self

from pydantic import TypeAdapter, ValidationError

from evomerge.errors import Problem
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.constraint import Bound
from evomerge.objectives.scores import Metric, Split

Grant = Literal["task_code", "benchmark_test"]
"""What is refused unless a person allows it by name for a session."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events have; each is None until the event is written down.

    Attributes:
        kind: the name of the kind in JSON.
        n: its number in the file, from 0.
        time: wall-clock seconds since the epoch.
        elapsed: seconds the campaign had been running, over all its sessions and without the pauses.
    """

    kind: ClassVar[str]

    n: int | None = None
    time: float | None = None
    elapsed: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"event": self.kind, **_plain_fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: if a field is missing or of another type; it says which.
        """
        try:
            event: Self = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f"`{cls.kind}`: {'; '.join(faults)}") from None
        return event


@dataclass(frozen=True, kw_only=True)
class CampaignEvent(Event):
    """Always the first event.

    Attributes:
        config: the campaign, as `Campaign.to_json` gives it.
        identity: digest of what of it may not change.
        versions: of evomerge and the libraries that results depend on.
        format: of the file.
    """

    kind = "campaign"

    config: Mapping[str, Any]
    identity: str
    versions: Mapping[str, str]
    format: int | None = None


@dataclass(frozen=True, kw_only=True)
class GrantedEvent(Event):
    """What a session was allowed by name; a grant holds for its session only."""

    kind = "granted"

    grants: tuple[Grant, ...]


@dataclass(frozen=True, kw_only=True)
class PreparedEvaluator:
    """What `prepare` found of one evaluator.

    Attributes:
        digest: of its declaration and items.
        metrics: `EVALUATOR.METRIC` names it gives.
        items: split to number of items.
        deterministic: whether it says the same of the same model each time.
        block_size: items it scores at a time, None where it cannot stop between blocks.
        losses: whether it has losses with gradients, so that slopes can be asked of it; None before 2026-12.
    """

    digest: str
    metrics: tuple[str, ...]
    items: Mapping[Split, int]
    deterministic: bool
    block_size: int | None = None
    losses: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PreparedLayout:
    """What a search space must know of the base: see `ModelLayout`, whose record this is."""

    layers: int
    places: tuple[str, ...]
    parameters: int
    active: Mapping[str, tuple[str, ...]] | None = None
    rows: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskVectors:
    """Inner products of the experts' task vectors.

    Attributes:
        experts: T names, in the order of rows and columns.
        gram: place (empty for the whole model) to a [T][T] matrix.
    """

    experts: tuple[str, ...]
    gram: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, kw_only=True)
class PreparedEvent(Event):
    """What the `prepare` job found in weights and evaluators.

    Attributes:
        checkpoints: `base` and experts to the digests of their weights.
        storage: dtype merges are rounded to.
        layout: of the base.
        evaluators: by name.
        task_vectors: seed the search; None in ledgers from before they were recorded.
        warnings: faults that stop nothing.
        generation: engine to the seconds it took for some answers of the base; None where nobody asked.
        one_with_baselines: whether genomes that are the uniform average or a single coefficient have the
            baseline's recipe; not in ledgers from before 2026-12, which must decode as they did.
    """

    kind = "prepared"

    checkpoints: Mapping[str, str]
    storage: str
    layout: PreparedLayout
    evaluators: Mapping[str, PreparedEvaluator]
    task_vectors: TaskVectors | None = None
    warnings: tuple[Problem, ...] = ()
    one_with_baselines: bool = False
    generation: Mapping[str, float] | None = None

    def digest_of(self, evaluator: str) -> str | None:
        """The digest of an evaluator and its items; None of one it did not have."""
        found = self.evaluators.get(evaluator)
        return None if found is None else found.digest


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
    """An attempt that was lost with its worker and may be tried again; fields as in `FailedEvent`."""

    kind = "lost"

    failure: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class BaselinesEvent(Event):
    """What the search is measured by, from the baselines' scores on search items.

    Attributes:
        ideal: best value of each objective, minimised.
        nadir: worst value.
        shown: ids of the baselines that tables show.
        single: id of the best merge with one coefficient, if any has scores.
        bounds: of the constraints, in their order.
    """

    kind = "baselines"

    ideal: tuple[float, ...]
    nadir: tuple[float, ...]
    shown: tuple[str, ...]
    single: str | None = None
    bounds: tuple[Bound, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StartsEvent(Event):
    """Points that the search begins with besides the baselines, and the file or folder each came from."""

    kind = "starts"

    genomes: tuple[tuple[float, ...], ...]
    origins: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AskedCandidate:
    """A candidate the optimizer asked for, with the digest of the recipe its genome decodes to.

    A genome of rows is too long for a line: `values` says where it lies among the per-item results. In the
    ledger's JSON `genome` is empty then; events in memory have it whole. `note` is what the optimizer wants
    to know of it again in a replay, beside the genome.
    """

    id: str
    genome: tuple[float, ...]
    recipe: str
    values: ItemReference | None = None
    note: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RacingRecord:
    """Whom a batch races against, and the digest of their per-item results."""

    references: tuple[str, ...]
    digest: str


@dataclass(frozen=True, kw_only=True)
class AskedEvent(Event):
    """One generation, or in steady state one candidate, asked of the optimizer.

    Attributes:
        generation: its number, from 0.
        candidates: in the order in which they were asked.
        racing: with racing, whom they race against.
        refinement: which asks, from 0; None for the campaign's own optimizer.
    """

    kind = "asked"

    generation: int
    candidates: tuple[AskedCandidate, ...]
    racing: RacingRecord | None = None
    refinement: int | None = None


@dataclass(frozen=True, kw_only=True)
class ToldEvent(Event):
    """The outcomes of a `generation`, or in steady state of candidate `id`, were told to who asked for them.

    Attributes:
        state: digest of the optimizer's state after it.
    """

    kind = "told"

    state: str
    generation: int | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class SlopeEvent(Event):
    """Losses and the gradient of their weighted sum at a point, which the optimizer asked for.

    Attributes:
        batch: of requests that are told together, from 0.
        number: of the request in its batch, from 0.
        request: digest of the point, the weights and the numbers of the items.
        weights: of each objective's loss.
        losses: mean loss on each objective's items; None where it has none.
        cost: in evaluations; see `history.History.cost`.
        gradient: where the gradient by gene lies; None if none was wanted, or it could not be had.
        failure: class of a failure; then there are no losses.
        message: of the failure.
        seconds: phase to wall seconds.
    """

    kind = "slope"

    batch: int
    number: int
    request: str
    weights: tuple[float, ...]
    losses: tuple[float | None, ...] = ()
    cost: float = 0.0
    gradient: ItemReference | None = None
    failure: str | None = None
    message: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RefineEvent(Event):
    """A further budget near a preference begins: an optimizer of its own asks from here on, in steady state.

    Attributes:
        preference: weights of the objectives in their order, summing to 1.
        evaluations: the budget, beside the campaign's own.
    """

    kind = "refine"

    preference: tuple[float, ...]
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class SelectionEvent(Event):
    """Which candidates are scored on selection items."""

    kind = "selection"

    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoppedEvent(Event):
    """Why a session ended: a limit (`budget`, `items`, `hours`, `plateau`, `exhausted`), or what stopped it.

    `refinement` is the one whose end it is.
    """

    kind = "stopped"

    reason: str
    refinement: int | None = None


EVENTS: Mapping[str, type[Event]] = {
    each.kind: each
    for each in (
        CampaignEvent, GrantedEvent, PreparedEvent, EvaluatedEvent, RacedEvent, FailedEvent, LostEvent,
        BaselinesEvent, StartsEvent, AskedEvent, ToldEvent, SlopeEvent, RefineEvent, SelectionEvent,
        StoppedEvent,
    )
}  # fmt: skip
"""Kind to class."""


def event_from_json(data: Mapping[str, Any], kinds: Mapping[str, type[Event]] = EVENTS) -> Event:
    """The event a record holds.

    Raises:
        ValueError: if it is of no known kind, or lacks a field.
    """
    kind = data.get("event")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"unknown event `{kind}`")
    return kinds[kind].from_json(data)


@cache
def _adapter(kind: type[Event]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain_fields(data: Any) -> dict[str, Any]:
    found = ((each.name, getattr(data, each.name)) for each in fields(data))
    return {name: _plain(value) for name, value in found if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return _plain_fields(value) if is_dataclass(value) else value
