"""Origins of candidates for the ledger: parents by their ids, and what it was that the search began with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from evomerge.ledger.history import History
from evomerge.objectives.origin import GIVEN, Origin
from evomerge.optimizers.descent import Descent
from evomerge.optimizers.grid import genome_key
from evomerge.optimizers.optimizer import KnowsDescent, Optimizer
from evomerge.search_space import Genome


class Origins:
    """Tells origins of what is asked, and learns what it is called.

    `sources`: genomes that the search begins with to what each is, as `replay.seeds` gives them.
    """

    def __init__(self, history: History, sources: Mapping[Genome, str]) -> None:
        self._history, self._sources = history, sources
        self._names: dict[bytes, str] | None = None

    def asked_by(self, optimizer: Optimizer, genomes: Sequence[Genome]) -> list[Origin | None]:
        """Of a batch that was just asked; None of what the optimizer says nothing about."""
        if not isinstance(optimizer, KnowsDescent):
            return [None] * len(genomes)
        descents = optimizer.descents()
        return [
            None if descent is None else self._origin(descent, genome)
            for descent, genome in zip(descents, genomes, strict=True)
        ]

    def note(self, names: Iterable[str], genomes: Iterable[Genome]) -> None:
        """What the genomes of a batch are called, for those that descend from them."""
        if self._names is not None:
            self._names.update(zip(map(genome_key, genomes), names, strict=True))

    def _origin(self, descent: Descent, genome: Genome) -> Origin:
        origin = descent.origin
        if origin.how == GIVEN:
            return replace(origin, source=self._sources.get(genome))
        names = [self._name(parent) for parent in descent.parents]
        known = tuple(dict.fromkeys(name for name in names if name is not None))
        return replace(origin, parents=known) if known else origin

    def _name(self, parent: np.ndarray) -> str | None:
        if self._names is None:
            every = self._history.candidates.values()
            self._names = {genome_key(c.genome): c.id for c in every if c.genome is not None}
        return self._names.get(genome_key(parent))
