"""Optimizers: ask for candidates, be told their outcomes, nothing more.

An optimizer is a pure function of its seed and of what it was asked and told, in order: the same calls
give bit-identical asks in any process, so that a campaign resumes by repeating what its ledger holds.
With the generational schedule it asks for one batch that is told together; with the steady-state
schedule each batch is one candidate, any number of which may be pending. `evomerge.testing.optimizers`
checks what every implementation must do; each one lives in a file that alone knows its library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from evomerge.objectives.forecast import Forecast
from evomerge.objectives.objective import Outcome
from evomerge.optimizers.descent import Descent
from evomerge.search_space import Genome

Schedule = Literal["generational", "steady_state"]


class Optimizer(Protocol):
    """What a schedule needs of the optimizer; candidates are numbered from 0 over all asks."""

    def ask(self) -> list[Genome]:
        """The next batch: genomes on the grid, none of which was asked before.

        A whole generation, or one candidate in steady state. Empty only if every genome of the grid
        was asked.

        Raises:
            RuntimeError: if the last generation was not told yet.
        """
        ...

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """The outcomes of the candidates with these numbers; of the last batch, in its order, if None.

        A generation is told whole; in steady state any pending candidates in order of arrival.

        Raises:
            RuntimeError: if a candidate is not pending, or the number of outcomes is another.
            ValueError: if a value is not finite, or their number does not fit the objectives; the
                optimizer is as it was before.
        """
        ...

    def state_digest(self) -> str:
        """SHA-256 (hex) over all that decides what comes next: members, values, random state."""
        ...


@runtime_checkable
class LooksAtItems(Protocol):
    """An optimizer that may want to be told the score of every item (`Complete.items`)."""

    @property
    def wants_items(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class KnowsDescent(Protocol):
    """An optimizer that knows what it made its candidates of."""

    def descents(self) -> list[Descent | None]:
        """Of the batch that was last asked, in its order; recorded for people, and never read again."""
        ...


@runtime_checkable
class Staged(Protocol):
    """An optimizer that searches in stages."""

    @property
    def stage(self) -> int:
        """Number, from 0, of the stage that asked last; recorded for people, and never read again."""
        ...


@runtime_checkable
class Preferring(Protocol):
    """An optimizer that has a model of its own for the preference near which it searches."""

    def made_for_preference(self) -> Genome | None:
        """That model, whether it was asked for or not; None if there is none after all."""
        ...


Note = tuple[float, ...]
"""What an optimizer wants to know of a candidate beside its genome."""


@runtime_checkable
class AdoptingOptimizer(Optimizer, Protocol):
    """An optimizer whose ask is worked out from its seed, its number and what was told.

    A replay need not work it out again, which takes time and may round otherwise on another processor: the
    recorded genomes are adopted.
    """

    def notes(self, genomes: Sequence[Genome]) -> list[Note | None]:
        """What to record beside genomes that were just asked."""
        ...

    def forecast(self) -> Forecast | None:
        """What is expected of the batch that was last asked or adopted; recorded with it."""
        ...

    def adopt(
        self,
        genomes: Sequence[Genome],
        notes: Sequence[Note | None],
        forecast: Forecast | None = None,
    ) -> None:
        """Take recorded genomes as the next batch asked. Ledgers before 2026-12 lack notes and forecasts.

        Raises:
            RuntimeError: as `ask`.
        """
        ...
