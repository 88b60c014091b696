"""What keeps a campaign from wasting a machine: deadlines, the breaker, and a word when there is no room."""

from __future__ import annotations

import logging
import time
from typing import Literal

from evomerge.errors import Problem, TooManyFailures
from evomerge.history import History

logger = logging.getLogger(__name__)

BREAKER_ALIKE = 8
BREAKER_FINISHED = 10
DEADLINE_FLOOR = 60.0
DEADLINE_TIMES = 4
CAPACITY_NOTICE = 20.0
"""Seconds without a machine for some worker after which that is said."""


def too_many_failures(history: History) -> TooManyFailures | None:
    """The error that ends a campaign in which candidates fail alike or mostly, quoting the last failure.

    After Ax's failure-rate limit: all of at least 8 in one way, or more than half of at least 10.
    """
    settled, kinds = history.settled, history.failed_kinds
    failed = sum(kinds.values())
    alike = settled >= BREAKER_ALIKE and failed == settled and len(kinds) == 1
    mostly = settled >= BREAKER_FINISHED and 2 * failed > settled
    if not (alike or mostly):
        return None
    last = history.last_failure
    assert last is not None
    found = f"the last one: {last.failure}: {last.message}"
    wrong = f"{failed} of {settled} candidates failed"
    return TooManyFailures(Problem("E508", wrong, found, "mend the cause, then run again"))


def deadline_seconds(chosen: float | Literal["auto"] | None, history: History) -> float | None:
    """Seconds a candidate may take: the campaign's figure, or 4 times the slowest baseline's."""
    if chosen != "auto":
        return chosen
    slowest = history.slowest_baseline
    return max(DEADLINE_FLOOR, DEADLINE_TIMES * slowest) if slowest is not None else None


class CapacityWatch:
    """Says, once, that workers have waited for a machine for a while; and once, that all have one."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = False

    def look(self, waiting: int, size: int) -> None:
        """Note that `waiting` of `size` workers have no place to run."""
        now = time.monotonic()
        if not waiting:
            if self._told:
                logger.warning("all %d workers have a place again", size)
            self._since, self._told = None, False
            return
        self._since = self._since or now
        if not self._told and now - self._since >= CAPACITY_NOTICE:
            self._told = True
            logger.warning(
                "warning[E409] workers: waiting for capacity; %d of %d workers have no place to run yet; "
                "the campaign goes on as far as there is room",
                waiting,
                size,
            )
