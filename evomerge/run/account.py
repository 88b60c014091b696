"""Account: what of a campaign's budget is left, for whoever asks now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evomerge.campaign.file import BudgetSection
from evomerge.ledger.history import History
from evomerge.run.limits import spent_reason


@dataclass
class Account:
    """A campaign's budget, or that of the refinement which asks.

    Attributes:
        budget: of the campaign.
        history: what was spent.
        elapsed: seconds the search has been running, over all its sessions; those of refinements are not.
        open: evaluations that are queued or under way.
        asker: number of the refinement that asks now; None for the campaign's own search.
    """

    budget: BudgetSection
    history: History
    elapsed: Callable[[], float]
    open: Callable[[], int]
    asker: int | None = None

    @property
    def allowed(self) -> float | None:
        """Evaluations that whoever asks now may spend; None: no limit."""
        if self.asker is not None:
            return self.history.refinements[self.asker].evaluations
        return self.budget.evaluations_allowed(self.history.search_items)

    @property
    def whole(self) -> int | None:
        """What is allowed and what others spent, rounded; None: no limit."""
        allowed = self.allowed
        others = self.history.cost - self.history.cost_of(self.asker)
        return None if allowed is None else round(allowed + others)

    @property
    def word(self) -> str:
        """The limit that `is_paid_up` looks at: `budget`, or `items` where those end first."""
        if self.asker is not None:
            return "budget"
        return spent_reason(self.budget, self.history.search_items)

    @property
    def left(self) -> float | None:
        """What results and open evaluations leave; None: no limit."""
        allowed = self.allowed
        return None if allowed is None else allowed - self.history.cost_of(self.asker) - self.open()

    def is_paid_up(self) -> bool:
        """Whether results and open evaluations use up what is allowed."""
        left = self.left
        return left is not None and left <= 0

    def spent(self) -> str | None:
        """`budget`, `items` or `hours` if that limit is reached, counting what is open."""
        if self.is_paid_up():
            return self.word
        return "hours" if self.is_out_of_time() else None

    def is_out_of_time(self, share: float = 1.0) -> bool:
        """Whether the campaign's hours, or a share of them, are over; a refinement has none."""
        hours = self.budget.hours
        return hours is not None and self.asker is None and self.elapsed() >= share * 3600 * hours
