"""Pace: how many evaluations a campaign does per minute while it is at work."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from evomerge.ledger.events import Event, FailedEvent, ScoredEvent, StoppedEvent
from evomerge.ledger.sessions import FINAL

PACE_WINDOW = 60
"""Results the pace is taken over: it follows a change within a few generations."""

PAUSE = 20.0
"""A gap this many times the mean of the others is a pause (a crash, a night), not work."""

SHORT = 15.0
"""Seconds: gaps are not compared with less, since results of several workers come in bursts."""


def recorded_pace(events: Sequence[Event]) -> float | None:
    """Evaluations per minute of the last session, from the times in a ledger; None if unknown."""
    times: list[float] = []
    for event in events:
        if isinstance(event, StoppedEvent) and event.reason not in FINAL:
            times.clear()
        elif isinstance(event, ScoredEvent | FailedEvent) and event.same_as is None:
            times.append(event.time or 0.0)
    return pace_of(times[-PACE_WINDOW:])


def pace_of(times: Iterable[float]) -> float | None:
    """Results per minute from the seconds at which they came; pauses are left out."""
    moments = list(times)
    gaps = [max(0.0, after - before) for before, after in itertools.pairwise(moments)]
    if len(gaps) < 2:
        return None
    total = sum(gaps)

    def is_pause(gap: float) -> bool:
        return gap > PAUSE * max((total - gap) / (len(gaps) - 1), SHORT)

    work = [gap for gap in gaps if not is_pause(gap)]
    return 60 * len(work) / sum(work) if sum(work) > 0 else None
