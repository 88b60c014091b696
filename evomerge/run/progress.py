"""Progress: what a run tells those who watch it, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evomerge.errors import EvomergeError
from evomerge.ledger.history import History


@dataclass(frozen=True)
class Progress:
    """What is going on right now, for a live display.

    `phase` is one of prepare, baselines, search, selection, done; `running` the ids under way.
    """

    phase: str
    running: tuple[str, ...]
    budget: int | None
    done_in_session: int
    seconds_in_session: float


Observer = Callable[[History, Progress], None]
StopRequest = Callable[[], EvomergeError | None]
