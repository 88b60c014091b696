"""The kinds of events by their names in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.ledger.events.begin import (
    BaselinesEvent,
    CampaignEvent,
    GrantedEvent,
    PreparedEvent,
    StartsEvent,
)
from evomerge.ledger.events.event import Event
from evomerge.ledger.events.results import EvaluatedEvent, FailedEvent, LostEvent, RacedEvent
from evomerge.ledger.events.search import (
    AskedEvent,
    RefineEvent,
    SelectionEvent,
    SlopeEvent,
    StoppedEvent,
    ToldEvent,
)

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
