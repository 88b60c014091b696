"""Failed slopes: losses and gradients that an optimizer asked for and that could not be had."""

from __future__ import annotations

import textwrap
from collections import Counter

from evomerge.ledger.events import SlopeEvent
from evomerge.ledger.history import History

MOST_REASON = 200
"""Characters of the reason why slopes failed."""


def slope_name(batch: int, number: int) -> str:
    """What a slope is called in logs and lists."""
    return f"slope.{batch}.{number}"


def failed_slopes(history: History) -> list[SlopeEvent]:
    """Those that failed, in the order in which they were asked."""
    return [
        batch[number]
        for batch in history.slopes
        for number in sorted(batch)
        if batch[number].failure is not None
    ]


def measured_slopes(history: History) -> int:
    """How many were measured."""
    return sum(each.failure is None for batch in history.slopes for each in batch.values())


def has_gradients(history: History) -> bool:
    """Whether a gradient could be had at all, so that something was learned from search items."""
    return any(
        each.failure is None and any(each.weights)
        for batch in history.slopes
        for each in batch.values()
    )


def commonest(history: History) -> SlopeEvent | None:
    """The last slope of the most frequent class of failure; None if none failed."""
    failed = failed_slopes(history)
    if not failed:
        return None
    ((kind, _),) = Counter(each.failure for each in failed).most_common(1)
    return next(each for each in reversed(failed) if each.failure == kind)


def slope_failure(history: History) -> str:
    """Why most slopes failed that did: class and message, on one line; empty if none did."""
    found = commonest(history)
    if found is None:
        return ""
    return textwrap.shorten(f"{found.failure}: {found.message}", MOST_REASON, placeholder=" ...")
