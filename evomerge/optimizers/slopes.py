"""Slopes: losses and their gradients by gene, which an optimizer may ask for beside candidates.

A merge that is linear in its coefficients has d loss / d coefficient = <d loss / d weights, task vector>
(as AdaMerging uses it, Yang et al. 2024, arXiv:2310.02575): one backward pass gives the gradient of every
gene. A slope is a job like any other: asked, recorded, paid for; it scores no candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from evomerge.optimizers.optimizer import Note, Optimizer
from evomerge.search_space import Genome

MOST_LEARNING = 0.5
"""Share of a budget, or of a stage's, that slopes may cost."""


GoneOnWith = Literal["map", "genes", "nothing"]
"""With what a search goes on whose lesson gave up: the map as learned so far, the genes without gradients, or
nothing that was learned."""


@dataclass(frozen=True)
class SlopeRequest:
    """What is wanted: the losses on some items at a point, and the gradient of their weighted sum.

    Attributes:
        genome: the point, on the grid; gradients pass straight through the rounding to it.
        weights: of each objective's mean loss, at least 0; one of weight 0 is not computed backwards.
        items: for each objective, the numbers of search items, ascending, each once; none skips it.
        note: what the optimizer wants to know of it again in a replay; recorded beside the answer.
        entropy: whether the loss of an item is the entropy over its choices, which needs no label, instead of
            the cross-entropy.
    """

    genome: Genome
    weights: tuple[float, ...]
    items: tuple[tuple[int, ...], ...]
    note: Note | None = None
    entropy: bool = False


@dataclass(frozen=True, eq=False)
class Slope:
    """The answer to a request.

    Attributes:
        losses: mean loss on each objective's items (cross-entropy over the choices of multiple choice, or
            the entropy over them; per-token negative log-likelihood of reference text); NaN where it has no
            items.
        gradient: float64 [genes], of the sum of weights times losses; empty if all weights are 0.
        cost: of it, in evaluations.
    """

    losses: tuple[float, ...]
    gradient: np.ndarray
    cost: float = 0.0


@dataclass(frozen=True)
class SlopeGround:
    """What slopes can be asked of, and what the baselines say of experts.

    Attributes:
        items: search items of each objective's evaluator; 0 where no losses stand for the objective.
        gains: for each expert, how much of the way from base to best expert it goes on each objective:
            1 for the best, 0 for the base and below it.
        choices: search items of each objective's evaluator whose entropy can be asked for; 0 where there are
            none.
        allowance: what slopes may cost, one loss of one search item being 1; None where nothing limits it.
        backward: what a loss with its gradient costs, in losses.
    """

    items: tuple[int, ...]
    gains: Mapping[str, tuple[float, ...]]
    choices: tuple[int, ...] = ()
    allowance: float | None = None
    backward: float = 1.0


@runtime_checkable
class SlopeOptimizer(Optimizer, Protocol):
    """An optimizer that also learns from slopes.

    Before each `ask` it is asked for `slopes` until it wants none, while nothing is pending; both are pure
    functions of the seed and of everything told so far.
    """

    @property
    def given_up(self) -> GoneOnWith | None:
        """If it asks for no more slopes because too many failed: what it goes on with."""
        ...

    def begin(self, ground: SlopeGround) -> None:
        """What there is to learn from; called once, before all else. Without it nothing is asked for."""
        ...

    def slopes(self) -> list[SlopeRequest]:
        """The slopes wanted next, told together; empty when it would rather ask for candidates.

        Asked again before it was told, it gives the same.
        """
        ...

    def adopt_slopes(self, notes: Mapping[int, Note | None]) -> None:
        """Make of the requests that `slopes` last gave those on record; by number in the batch, their notes.

        What was drawn or worked out may have rounded otherwise on another processor. Ledgers from before
        2026-12 have no notes.

        Raises:
            ValueError: if a note is none of this optimizer's.
        """
        ...

    def enough(self) -> None:
        """No further slopes can be had: go on with what was learned."""
        ...

    def tell_slopes(self, slopes: Sequence[Slope | None]) -> None:
        """The answers to the last requests, in their order; None where one could not be had.

        Raises:
            RuntimeError: if none were asked for, or their number is another.
        """
        ...
