"""Refiner: a further budget near a preference, whatever optimizer a campaign began with.

It knows all that was told before. Where a map was learned it asks for the model of the preference itself,
then for its neighbours, then goes by a surrogate with that focus on the map's chart (`auto`); else by the
surrogate alone, on the genes. A policy that was learnt for all preferences (`hm3`, also of the last stage)
goes on itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evomerge.objectives.objective import Objective, Outcome
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.learned_front import LearnedFront
from evomerge.optimizers.optimizer import Optimizer
from evomerge.optimizers.proposals import Proposals, focusing
from evomerge.optimizers.surrogate import LEAST
from evomerge.search_space import Gene, Genome

NEIGHBOURS = 7
"""Points of a learned map that are evaluated first, the preference's own among them."""


class Refiner(Auto):
    """`auto` with a focus that begins with what is known; in steady state."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        seed: int,
        initial: Sequence[Genome],
        preference: Sequence[float],
        known: Sequence[tuple[Genome, Outcome]],
        before: Optimizer,
    ) -> None:
        """Of a campaign's genes, objectives and seed.

        Args:
            genes: of the campaign.
            objectives: of the campaign.
            seed: decides every random number.
            initial: the genomes that its own optimizer was given.
            preference: weights of the objectives, summing to 1.
            known: all that was told before, to whomever, in order.
            before: the campaign's own optimizer, whose learned map is taken over if it has one.
        """
        super().__init__(genes, objectives, 1, seed, initial, steady=True, focus=preference)
        self._inner = replace(self._inner, start=LEAST)
        self.know(known)
        if isinstance(before, LearnedFront) and before.lesson.has_taken_steps:
            self.lesson.take_over(before.lesson)
            if isinstance(before, Auto):
                self._on_chart |= before.places
        told = {genome for genome, _ in known}
        self._points_first = NEIGHBOURS + sum(genome in told for genome in self._on_chart)


class PolicyRefiner(Proposals):
    """What a search learnt for all preferences, gone on with near one; in steady state."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        seed: int,
        preference: Sequence[float],
        known: Sequence[tuple[Genome, Outcome]],
        before: Optimizer,
    ) -> None:
        """As `Refiner`, for a `before` that is `focusing`."""
        learnt = focusing(before)
        assert learnt is not None
        propose = learnt.near(preference)
        super().__init__(propose, genes, objectives, 1, seed, (), None, steady=True)
        self.know(known)
