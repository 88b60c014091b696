"""Schedules: who is asked when, and who is told when. Two of them, through one seam.

*Generational*: a whole generation is asked, and told in ask order when all of it is settled. *Steady
state*: a candidate is asked whenever a worker is idle, and told as its result arrives. Neither knows
clocks, ledgers or models: a `Desk` does, which is the campaign itself or a simulation of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from evomerge.optimizers.optimizer import Optimizer, Schedule
from evomerge.optimizers.slopes import Slope, SlopeOptimizer, SlopeRequest
from evomerge.search_space import Genome


class Desk(Protocol):
    """What a schedule works at: it lays genomes down and takes candidates up, and never sees who scores them.

    Behind it is a campaign with its pool and ledger (`run.search`), or a simulated clock
    (`benchmarks/scheduler.py`).
    Candidates are numbered from 0 over all asks.

    A candidate is *settled* when it has scores, was given up in a race or has failed; each is handed out by
    `arrived` once.
    """

    def untold(self) -> list[int]:
        """Candidates that an earlier session asked and did not tell, in ask order."""
        ...

    def spent(self) -> str | None:
        """Why nothing more may be started (`budget`, `hours`), counting what is under way; or None."""
        ...

    def idle(self) -> int:
        """How many to ask for now: workers for which nothing is under way or queued, within the budget.

        0 while settled candidates wait in `arrived`.
        """
        ...

    def busy(self) -> bool:
        """Whether anything is under way, or waits in `arrived` to be told."""
        ...

    def slopes(self, requests: Sequence[SlopeRequest]) -> list[Slope | None] | None:
        """The answers to requests, put on record one by one; None if a limit comes first. Nothing is busy."""
        ...

    def has_learned_enough(self) -> bool:
        """Whether slopes have cost as much as they may."""
        ...

    def asked(self, genomes: Sequence[Genome]) -> list[int]:
        """Number newly asked genomes; they are on record before `start` starts anything."""
        ...

    def start(self, numbers: Sequence[int]) -> str | None:
        """Queue candidates in order until a limit is reached; which (`budget`, `hours`), None if none was.

        Those that are settled already cost nothing and arrive at once.
        """
        ...

    def arrived(self) -> list[int] | None:
        """Wait; the candidates settled since, in order of arrival. None once nothing is under way.

        May be empty. What has not begun when a limit is reached is dropped and never arrives.
        """
        ...

    def tell(self, numbers: Sequence[int]) -> None:
        """Tell the optimizer the outcomes of settled candidates, in this order, and put that on record.

        In a steady state each is told by itself.
        """
        ...


def follow(schedule: Schedule, optimizer: Optimizer, desk: Desk) -> str:
    """Ask and tell until a limit is reached; returns which: `budget`, `hours` or `exhausted`."""
    if schedule == "steady_state":
        return _steady_state(optimizer, desk)
    return _generational(optimizer, desk)


def _wants_slopes(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, SlopeOptimizer) and bool(optimizer.slopes())


def _learn(optimizer: Optimizer, desk: Desk) -> str | None:
    """Answer an optimizer's requests for slopes until it has none; the limit that is reached, if any."""
    while (reason := desk.spent()) is None and isinstance(optimizer, SlopeOptimizer):
        requests = optimizer.slopes()
        if requests and desk.has_learned_enough():
            optimizer.enough()
            continue
        if not requests:
            break
        answers = desk.slopes(requests)
        if answers is None:
            return desk.spent() or "hours"
        optimizer.tell_slopes(answers)
    return reason


def _generational(optimizer: Optimizer, desk: Desk) -> str:
    """A generation is told if it is whole; one that a limit cut short waits for a larger budget."""
    batch = desk.untold()
    while True:
        if not batch:
            reason = _learn(optimizer, desk)
            if reason:
                return reason
            genomes = optimizer.ask()
            if not genomes:
                return "exhausted"
            batch = desk.asked(genomes)
        open_, before = set(batch), -1
        # Raced candidates cost less than was set aside for them: some that a limit held back may start yet.
        while open_ and len(open_) != before:
            before = len(open_)
            reason = desk.start([number for number in batch if number in open_])
            while (settled := desk.arrived()) is not None:
                open_.difference_update(settled)
        if open_:
            return reason or desk.spent() or "hours"
        desk.tell(batch)
        batch = []


def _steady_state(optimizer: Optimizer, desk: Desk) -> str:
    """Ask while a worker is idle; at a limit, what is under way is still told as it arrives."""
    reason = desk.start(desk.untold())
    while True:
        while reason is None and (idle := desk.idle()) > 0:
            numbers: list[int] = []
            while reason is None and len(numbers) < idle:  # those for all idle workers start together
                if _wants_slopes(optimizer) and (numbers or desk.busy()):
                    break
                reason = _learn(optimizer, desk)
                genomes = [] if reason else optimizer.ask()
                if genomes:
                    numbers += desk.asked(genomes)
                elif reason is None:
                    reason = "exhausted"
            if not numbers:
                break
            reason = desk.start(numbers) or reason
        settled = desk.arrived()
        if settled is None:
            # Idle workers and nothing under way: only a limit ends that.
            if reason is not None:
                return reason
            continue
        if settled:
            desk.tell(settled)
