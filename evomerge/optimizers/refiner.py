"""Refiner: a further budget near a preference, whatever optimizer a campaign began with.

It knows all that was told before. Where a map was learned it asks for the model of the preference itself,
then for its neighbours, then goes by a surrogate with that focus on the map's chart (`auto`); else by the
surrogate alone, on the genes. A policy that was learnt for all preferences (`hm3`, also of the last stage)
goes on itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from evomerge.objectives.objective import Objective, Outcome
from evomerge.optimizers.auto import Auto
from evomerge.optimizers.learned_front import LearnedFront
from evomerge.optimizers.optimizer import Note, Optimizer
from evomerge.optimizers.proposals import Proposals, focusing
from evomerge.optimizers.settings import REFINING, AutoSettings
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
        places: Mapping[Genome, Note] = MappingProxyType({}),
        settings: AutoSettings = REFINING,
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
            places: what earlier refiners noted of genomes that they asked for; where a map was learned, these
                are places on a refiner's chart.
            settings: of the refinement.
        """
        super().__init__(genes, objectives, 1, seed, initial, settings, steady=True, focus=preference)
        self._inner = replace(self._inner, start=LEAST)
        self.know(known)
        told = {genome for genome, _ in known}
        if isinstance(before, LearnedFront) and before.lesson.has_taken_steps:
            self.lesson.take_over(before.lesson)
            # Given genomes that were never asked for must not come before the preference's own model.
            self._initial = self._initial[:0]
            self._on_chart |= self._places_of(before, told)
            size = len(self._chart.genes)
            self._on_chart |= {genome: place for genome, place in places.items() if len(place) == size}
        self._points_first = NEIGHBOURS + sum(genome in told for genome in self._on_chart)

    def made_for_preference(self) -> Genome | None:
        """The learned map's own model for the preference; None where no map was learned."""
        if not self.lesson.has_taken_steps:
            return None
        (point,) = self._chart.points(np.array(self._first_places(1))).tolist()
        return tuple(point)

    def _places_of(self, before: LearnedFront, told: Collection[Genome]) -> dict[Genome, Genome]:
        """Where on this chart the points lie that the campaign's own optimizer asked for by its map.

        A chart without a focus is spaced evenly, this one by preferences: what they share are preferences.
        """
        if not isinstance(before, Auto):
            return {genome: self._chart.at(w) for genome, w in before.preferences_of(told).items()}
        if not before.places:
            return {}
        found = before.chart.preferences(np.array(list(before.places.values()))).tolist()
        pairs = zip(before.places.items(), found, strict=True)
        return {genome: self._chart.at(w, *place[-2:]) for (genome, place), w in pairs}


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
