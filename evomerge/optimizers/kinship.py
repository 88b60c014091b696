"""Top-k greedy merging with exploration guided by model kinship.

Hu et al. (2024), "Exploring Model Kinship for Merging Large Language Models", arXiv:2410.12613. The best k
models are merged in pairs, again and again; since they come to be alike and nothing new comes of them, the
best is also merged with those it is least akin to. Kinship is the similarity of what two merges add to the
base; here that of their coefficients, which it is where task vectors are perpendicular and of one length.
A merge of two merges is the mean of their coefficients.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from evomerge.objectives.origin import MEAN, RANDOM
from evomerge.optimizers.descent import Descent, Descents, of
from evomerge.optimizers.grid import Grid, as_rows
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import KinshipSettings
from evomerge.optimizers.told import learned
from evomerge.search_space import Gene, Genome
from evomerge.search_space.similarity import kinship


class KinshipMerging:
    """A proposing function (see `proposals`); all it keeps is of what the last points are the means."""

    def __init__(self, genes: Sequence[Gene], initial: Sequence[Genome]) -> None:
        self._grid = Grid(genes)
        self._initial = frozenset(map(tuple, self._grid.snap(as_rows(initial, len(genes))).tolist()))
        self.descents: Sequence[Descent | None] = ()

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count or fewer, genes]."""
        settings: KinshipSettings = asked.settings
        known = learned(asked.told, self._initial, len(self._grid), asks_again=asked.asks_again)
        if known is None or len(known.genomes) < 2:
            self.descents = [of(RANDOM)] * asked.count
            return self._grid.from_unit(asked.rng.random((asked.count, len(self._grid))))
        broken = np.maximum(known.broken, 0.0).sum(axis=1)
        order = np.lexsort((known.values.sum(axis=1), broken))
        genomes = known.genomes[order]
        top = genomes[: settings.top]
        alike = kinship(genomes[:1], genomes[1:], settings.similarity)[0]
        others = [(genomes[0], genomes[1 + other]) for other in np.argsort(alike, kind="stable")]
        taken = {genome for genome, _ in asked.told} | set(asked.pending)
        means = Descents()
        greedy = self._new(list(itertools.combinations(top, 2)), taken, means)
        apart = self._new(others, taken, means)
        # What is left of a whole number decides by chance, so that asks of one candidate explore too.
        exploring = min(len(apart), int(settings.explore * asked.count + asked.rng.random()))
        found = [*apart[:exploring], *greedy, *apart[exploring:]][: asked.count]
        self.descents = means.of(map(tuple, as_rows(found, len(self._grid)).tolist()))
        return as_rows(found, len(self._grid))

    def _new(
        self, couples: Sequence[tuple[np.ndarray, np.ndarray]], taken: set[Genome], means: Descents
    ) -> list[np.ndarray]:
        """Means of couples that are on the grid and were not asked, in order; their descents are noted."""
        rows = self._grid.snap(as_rows([(a + b) / 2.0 for a, b in couples], len(self._grid)))
        means.note(rows, [of(MEAN, a, b) for a, b in couples])
        known, found = set(taken), []
        for row in rows:
            genome = tuple(row.tolist())
            if genome not in known:
                known.add(genome)
                found.append(row)
        return found
