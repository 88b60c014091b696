"""What keeps a campaign from wasting machines: deadlines, back-off, breaker, word of missing room."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from evomerge.errors import Problem, TooManyFailures
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives.scores import Split

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

BREAKER_ALIKE = 8
BREAKER_FINISHED = 10
DEADLINE_FLOOR = 60.0
DEADLINE_TIMES = 4
INFRASTRUCTURE = ("node_lost", "worker_died")
"""Losses that may not be the candidate's fault and may pass: tried again after a while. What ran out of
time or memory is tried at once, since its worker is a fresh one."""

POISON = 2
"""A candidate that lost this many workers is given up: it is likely what kills them."""

MOST_REQUEUED = 5
"""Times a candidate is tried again in all, also when it was machines that went away."""

BACK_OFF_GROWTH = 3.0
BACK_OFF_MOST = 30.0
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


def is_given_up(candidate: Candidate, split: Split) -> bool:
    """Whether a candidate has lost too many workers on a split to be tried again."""
    return candidate.lost.get(split, 0) >= POISON or candidate.attempts_lost > MOST_REQUEUED


def deadline_seconds(
    chosen: float | Literal["auto"] | None, history: History, split: Split = "search"
) -> float | None:
    """Seconds a candidate may take: the campaign's figure, or 4 times the slowest baseline's.

    Baselines tell of search items first: a split that has more has as many times as long.
    """
    if chosen != "auto":
        return chosen
    slowest = history.slowest_baseline
    if slowest is None:
        return None
    return max(DEADLINE_FLOOR, DEADLINE_TIMES * slowest) * _times_the_items(history, split)


def _times_the_items(history: History, split: Split) -> float:
    """How many times the items of the search a split has, by the evaluator that has most more; at least 1."""
    known = () if history.prepared is None else history.prepared.evaluators.values()
    return max([1.0, *(each.items.get(split, 0) / max(1, each.items["search"]) for each in known)])


@dataclass(frozen=True)
class Clock:
    """Seconds that only grow, and a way to let some pass."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


REAL_CLOCK = Clock(time.monotonic, time.sleep)


def back_off_seconds(requeued: int) -> float:
    """Seconds before a lost job is tried for the `requeued`-th time again: 1, 3, 9, 27, then 30.

    Without chance in it: one driver hands everything out, so that no two ever come back at once.
    """
    return min(BACK_OFF_MOST, BACK_OFF_GROWTH ** (requeued - 1))


class BackOff(Generic[Item]):
    """Holds what is to be tried again later. Nothing of it is kept for another session."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: list[tuple[float, Item]] = []

    def put(self, item: Item, requeued: int) -> None:
        """Hold an item until its time has come."""
        self._held.append((self._clock.now() + back_off_seconds(requeued), item))

    def seconds(self) -> float:
        """Until the next one is due; 0 if one is, infinity if nothing is held."""
        return max(0.0, min((due for due, _ in self._held), default=float("inf")) - self._clock.now())

    def take_due(self) -> list[Item]:
        """Give back what is due, in the order in which it became so."""
        now = self._clock.now()
        due = sorted((entry for entry in self._held if entry[0] <= now), key=lambda entry: entry[0])
        self._held = [entry for entry in self._held if entry[0] > now]
        return [item for _, item in due]

    def take_all(self) -> list[Item]:
        """Give back everything."""
        held, self._held = self._held, []
        return [item for _, item in held]


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
