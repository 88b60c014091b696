"""Sessions: whose the sessions in a ledger were, the search's own or a refinement's, and what ended them.

No event says that a session begins. Whose it is shows in what it asks, tells and measures on search items,
and since 2026-12 in how it stops; what may belong to either belongs to whoever was at work before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evomerge.ledger.events import (
    AskedEvent,
    Event,
    RefineEvent,
    ResultEvent,
    SelectionEvent,
    SlopeEvent,
    StoppedEvent,
    ToldEvent,
)

FINAL = ("budget", "items", "hours", "plateau", "exhausted")
"""Reasons to stop after which nothing is left to do."""


@dataclass
class Sessions:
    """What a ledger says of its sessions.

    Attributes:
        refining: the refinement that is at work, or was last; None: the search itself.
        stopped: why the last session of the search ended; None while one goes on.
        refinement_stopped: the same of the last refinement's; None also where there was none.
        refinements, refinements_ended: those begun, and how many of them came to their end.
        refining_seconds: running time of refinements.
    """

    refining: int | None = None
    stopped: str | None = None
    refinement_stopped: str | None = None
    refinements: int = 0
    refinements_ended: int = 0
    refining_seconds: float = 0.0

    @property
    def last_stopped(self) -> str | None:
        """Why the last session ended, whosever it was; None while one goes on."""
        return self.stopped if self.refining is None else self.refinement_stopped

    def take(self, event: Event, seconds: float, asker_of: Callable[[str], int | None]) -> None:
        """Take in one more event, so many seconds after the last; `asker_of`: a candidate's, by id."""
        self.refining = self._whose(event, asker_of)
        if isinstance(event, RefineEvent):
            self.refinements += 1
        if self.refining is not None:
            self.refining_seconds += seconds
        if isinstance(event, SelectionEvent):
            return
        reason = event.reason if isinstance(event, StoppedEvent) else None
        if self.refining is None:
            self.stopped = reason
        else:
            self.refinement_stopped = reason
            if reason in FINAL:
                self.refinements_ended = self.refining + 1

    def _whose(self, event: Event, asker_of: Callable[[str], int | None]) -> int | None:
        match event:
            case RefineEvent():
                return self.refinements
            case AskedEvent():
                return event.refinement
            case ToldEvent():
                return None if event.id is None else asker_of(event.id)
            case SlopeEvent():
                return None
            case ResultEvent(split="search"):
                return asker_of(event.id)
            case StoppedEvent(refinement=None):
                # Before 2026-12 a refinement was named only where it came to its end.
                goes_on = self.refining is not None and self.refinement_stopped is None
                return self.refining if goes_on and event.reason not in FINAL else None
            case StoppedEvent():
                return event.refinement
        return self.refining
