"""Events: what a ledger can say, each kind a frozen dataclass whose fields are those of its JSON object.

A campaign's events, in the order in which they first appear: `campaign`, `granted`, `prepared`, `evaluated`
(the baselines), `baselines`, `starts`; then, batch by batch, `asked`, the results (`evaluated`, `raced`,
`failed`, `lost`) and `told`; between batches, of optimizers that learn from gradients, `slope`; at the end
`selection`, more `evaluated`, `stopped`. A finished campaign may be gone on with near a preference: `refine`,
and the same again.

In JSON an event has its `kind` under `event`; what is None is left out.

Read `event` (what all have, and JSON), `begin`, `search`, `results`, and `kinds` (name to class).
"""

from evomerge.ledger.events.begin import (
    BaselinesEvent,
    CampaignEvent,
    Grant,
    GrantedEvent,
    PreparedEvaluator,
    PreparedEvent,
    PreparedLayout,
    StartsEvent,
    TaskVectors,
)
from evomerge.ledger.events.event import Event
from evomerge.ledger.events.kinds import EVENTS, event_from_json
from evomerge.ledger.events.results import (
    EvaluatedEvent,
    FailedEvent,
    LostEvent,
    RacedEvent,
    ResultEvent,
    ScoredEvent,
)
from evomerge.ledger.events.search import (
    AskedCandidate,
    AskedEvent,
    RacingRecord,
    RefineEvent,
    SelectionEvent,
    SlopeEvent,
    StoppedEvent,
    ToldEvent,
)

__all__ = [
    "EVENTS",
    "AskedCandidate",
    "AskedEvent",
    "BaselinesEvent",
    "CampaignEvent",
    "EvaluatedEvent",
    "Event",
    "FailedEvent",
    "Grant",
    "GrantedEvent",
    "LostEvent",
    "PreparedEvaluator",
    "PreparedEvent",
    "PreparedLayout",
    "RacedEvent",
    "RacingRecord",
    "RefineEvent",
    "ResultEvent",
    "ScoredEvent",
    "SelectionEvent",
    "SlopeEvent",
    "StartsEvent",
    "StoppedEvent",
    "TaskVectors",
    "ToldEvent",
    "event_from_json",
]
