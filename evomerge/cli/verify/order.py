"""Verify: events stand in an order that a driver writes, and time goes forward."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.campaign.campaign import identity_digest
from evomerge.cli.verify.report import Verification
from evomerge.ledger.events import (
    AskedEvent,
    BaselinesEvent,
    CampaignEvent,
    Event,
    GrantedEvent,
    PreparedEvent,
    RefineEvent,
    ResultEvent,
    SelectionEvent,
    StoppedEvent,
    ToldEvent,
)
from evomerge.optimizers.baselines import ENSEMBLE, UNIFORM, is_soup


def check_order(events: Sequence[Event], result: Verification) -> bool:
    """Events stand in an order a driver writes; False if not, since all else builds on it."""
    first = events[0] if events else None
    if not isinstance(first, CampaignEvent):
        result.fault("a ledger begins with its `campaign` event")
        return False
    if first.identity != identity_digest(first.config):
        result.fault("the campaign's identity is not that of its configuration", where="identity")
    before = len(result.problems)
    known = {"base", UNIFORM, *first.experts}
    known |= {f"single-{c:g}" for c in first.single}
    known |= {ENSEMBLE} if first.has_ensemble else set()
    seen: set[type[Event]] = set()
    steady = first.is_steady
    asked = refinements = 0
    waiting: int | None = None  # the generation that was asked and not told
    untold: set[str] = set()
    for event in events[1:]:
        where = f"event {event.n}"
        if isinstance(event, CampaignEvent | PreparedEvent | BaselinesEvent) and type(event) in seen:
            result.fault(f"`{event.kind}` stands twice", where=where)
        early = isinstance(event, PreparedEvent | GrantedEvent | StoppedEvent)
        if not early and PreparedEvent not in seen:
            result.fault(f"`{event.kind}` stands before `prepared`", where=where)
        match event:
            case AskedEvent():
                refined = event.refinement is not None
                turn = event.generation == asked and (waiting is None or steady or refined)
                if not turn or BaselinesEvent not in seen:
                    result.fault("a generation is asked out of turn", f"{event.generation}", where)
                if event.refinement is not None and event.refinement != refinements - 1:
                    found = f"{event.refinement}"
                    result.fault("a refinement asks that is not under way", found, where)
                waiting = event.generation if waiting is None and not refined else waiting
                asked += 1
                for each in event.candidates:
                    for parent in (each.origin.parents or ()) if each.origin is not None else ():
                        if parent not in known:
                            result.fault(
                                f"`{each.id}` descends from `{parent}`, asked later", where=where
                            )
                names = [candidate.id for candidate in event.candidates]
                for name in names:
                    if name in known or names.count(name) > 1:
                        result.fault(f"`{name}` is asked twice", where=where)
                known |= set(names)
                untold |= set(names)
            case RefineEvent():
                refinements += 1
            case ToldEvent() if steady or event.id is not None:
                if event.id not in untold:
                    result.fault(f"`{event.id}` is told out of turn", where=where)
                untold.discard(str(event.id))
            case ToldEvent():
                if event.generation != waiting or waiting is None:
                    result.fault("a generation is told out of turn", f"{event.generation}", where)
                waiting = None
            case ResultEvent() if event.id not in known and not is_soup(event.id, first.experts):
                result.fault(f"a result for `{event.id}`, which nobody asked for", where=where)
            case SelectionEvent():
                for name in event.ids:
                    if name not in known:
                        result.fault(f"`{name}` is re-scored, but nobody asked for it", where=where)
                if event.made_for is not None and event.made_for not in known:
                    wrong = f"`{event.made_for}` was made for a preference, but nobody asked for it"
                    result.fault(wrong, where=where)
        seen.add(type(event))
    result.count("asks in turn" if steady else "generations in turn", asked)
    return len(result.problems) == before


def check_clock(events: Sequence[Event], result: Verification) -> None:
    """The running time never goes back, whatever the machine's clock did."""
    elapsed = 0.0
    for event in events:
        now = elapsed if event.elapsed is None else event.elapsed
        if now < elapsed:
            result.fault("the running time goes back", f"{now} after {elapsed} s", f"event {event.n}")
        elapsed = now
