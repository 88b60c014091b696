"""Events of the search and its end: what was asked and told, slopes, refinements, the selection, the stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.ledger.events.event import Event
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.forecast import Forecast
from evomerge.objectives.origin import Origin


@dataclass(frozen=True, kw_only=True)
class AskedCandidate:
    """A candidate that the optimizer asked for.

    Attributes:
        id: its name in the campaign.
        genome: its genes. One with a weight for each row is too long for a line: in the ledger's JSON it is
            empty then, and events in memory have it whole.
        recipe: digest of the recipe that the genome decodes to.
        values: where a long genome lies among the per-item results.
        note: what the optimizer wants to know again in a replay, beside the genome.
        origin: what it was made of, for people; None where the optimizer does not say, and before 2026-12.
    """

    id: str
    genome: tuple[float, ...]
    recipe: str
    values: ItemReference | None = None
    note: tuple[float, ...] | None = None
    origin: Origin | None = None


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
        forecast: what the optimizer expects of it, if it has a model.
        stage: which one asked, from 0, where a search has stages; ledgers before 2026-12 lack it.
    """

    kind = "asked"

    generation: int
    candidates: tuple[AskedCandidate, ...]
    racing: RacingRecord | None = None
    refinement: int | None = None
    forecast: Forecast | None = None
    stage: int | None = None


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
        note: of the optimizer, taken up again in a replay.
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
    note: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RefineEvent(Event):
    """A further budget near a preference begins: an optimizer of its own asks from here on, in steady state.

    Attributes:
        preference: weights of the objectives in their order, summing to 1.
        evaluations: the budget, beside the campaign's own.
        by: `policy` where what the campaign's own optimizer learnt goes on; None where a surrogate searches,
            and before 2026-12.
        settings: of that surrogate, all of them, as the campaign's own are; None of a policy, and before
            2026-12.
    """

    kind = "refine"

    preference: tuple[float, ...]
    evaluations: int
    by: str | None = None
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SelectionEvent(Event):
    """Which candidates are scored on selection items.

    Attributes:
        ids: of what may belong to the front, and of models that were made for the preference of a refinement.
        made_for: of these the one made for the preference of the refinement that ends; None where no map was
            learned, where it is no refinement that ends, and before 2026-12. One without scores on search
            items (it failed, or lost a race) is named here and is not among `ids`.
    """

    kind = "selection"

    ids: tuple[str, ...]
    made_for: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoppedEvent(Event):
    """A session ended.

    Attributes:
        reason: the limit that was reached (`budget`, `items`, `hours`, `plateau`, `exhausted`), or what
            stopped it.
        refinement: the one whose session it was, if it was one; it came to its end where a limit was reached.
            Before 2026-12 named only then.
    """

    kind = "stopped"

    reason: str
    refinement: int | None = None
