"""M2N2: models compete for items, the complementary mate, and the place where a merge changes over evolves.

Abrantes, Lange and Tang (2025), "Competition and Attraction Improve Model Fusion", arXiv:2508.16204. An
archive of models; an item's worth is shared out over those that answer it, so that niches hold
(`fitness`); the first parent is drawn by fitness, the second by how good it is where the first is not
(`attraction`); up to a random place in depth the child lies at w between them, behind it at 1 - w; it
takes the place of the archive's worst, if it is better.

What differs from the paper: parents are blended in their coefficients, so that a child is a merge of the
experts and never of merges' weights (the same where merges are linear in their coefficients); each
objective's items count as much as another's together; scores on another scale than [0, 1] are brought onto
it, item by item, over all candidates so far; children can be mutated, since a search of few coefficients
runs out of new blends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.objectives.objective import Complete
from evomerge.objectives.origin import CROSSED, RANDOM
from evomerge.optimizers.descent import Descent, of
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import M2n2Settings
from evomerge.search_space import Gene


class M2n2:
    """A proposing function (see `proposals`); what it keeps between calls only saves time."""

    wants_items = True

    def __init__(self, genes: Sequence[Gene]) -> None:
        self._grid = Grid(genes)
        self._order = np.lexsort((np.arange(len(genes)), self._grid.depth))
        self.descents: Sequence[Descent | None] = ()

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        settings: M2n2Settings = asked.settings
        genomes, scores, shares = scored(asked)
        if len(genomes) < 2:
            self.descents = [of(RANDOM)] * asked.count
            return self._grid.from_unit(asked.rng.random((asked.count, len(self._grid))))
        members = archive(scores, shares, settings.archive)
        genomes, scores = genomes[members], scores[members]
        worth = fitness(scores, shares)
        children = np.empty((asked.count, len(self._grid)))
        descents: list[Descent | None] = []
        for child in children:
            first = _drawn(worth, asked.rng)
            wanted = attraction(scores, shares, first)
            wanted[first] = 0.0
            second = _drawn(wanted, asked.rng, besides=first)
            child[:] = self._crossed(genomes[first], genomes[second], settings, asked.rng)
            descents.append(of(CROSSED, genomes[first], genomes[second]))
        self.descents = descents
        return np.asarray(np.clip(children, self._grid.low, self._grid.high))

    def _crossed(
        self, first: np.ndarray, second: np.ndarray, settings: M2n2Settings, rng: np.random.Generator
    ) -> np.ndarray:
        """The first parent's share is w up to the split point and 1 - w behind it; float64 [genes]."""
        share = np.full(len(first), rng.random())
        behind = self._order[int(rng.integers(0, len(first) + 1)) :]
        share[behind] = 1.0 - share[behind]
        child: np.ndarray = share * first + (1.0 - share) * second
        if settings.mutation > 0.0:
            child = child + settings.mutation * rng.normal(size=len(child)) * (
                self._grid.high - self._grid.low
            )
        return child


def scored(asked: Asked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known of each candidate that keeps all bounds: genomes, scores of items, and what items count.

    Returns:
        float64 [n, genes]; [n, items] in [0, 1], larger is better; [items], of each objective 1 together.
    """
    kept = [
        (genome, outcome)
        for genome, outcome in asked.told
        if isinstance(outcome, Complete) and all(v <= 0.0 for v in outcome.violations)
    ]
    if not kept:
        return np.empty((0, len(asked.genes))), np.empty((0, 0)), np.empty(0)
    columns, shares = [], []
    for number in range(len(asked.objectives)):
        rows = [
            outcome.items[number] if outcome.items is not None else np.array([-outcome.values[number]])
            for _, outcome in kept
        ]
        if len({len(row) for row in rows}) > 1:
            # Some were scored without items: the objective is one item.
            rows = [np.array([-outcome.values[number]]) for _, outcome in kept]
        block = np.array(rows, dtype=np.float64).reshape(len(kept), -1)
        columns.append(block)
        shares.append(np.full(block.shape[1], 1.0 / max(block.shape[1], 1)))
    scores = np.concatenate(columns, axis=1)
    least, most = scores.min(axis=0), scores.max(axis=0)
    outside = (least < 0.0) | (most > 1.0)
    span = np.where(most > least, most - least, 1.0)
    scores = np.where(outside, (scores - least) / span, scores)
    genomes = np.array([genome for genome, _ in kept], dtype=np.float64)
    return genomes.reshape(len(kept), len(asked.genes)), scores, np.concatenate(shares)


def fitness(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What each model gets of the items: `sum_j c_j s_ij / sum_p s_pj`; float64 [models]."""
    return _earned(scores, _worth(scores, shares))


def attraction(scores: np.ndarray, shares: np.ndarray, first: int) -> np.ndarray:
    """How much better each model is where the first is not: `sum_j c_j max(0, s_ij - s_1j) / sum_p s_pj`."""
    return _earned(np.maximum(scores - scores[first], 0.0), _worth(scores, shares))


def _earned(scores: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """`scores @ worth`, float64 [models]; equal rows earn the same bits, as BLAS does not promise."""
    found: np.ndarray = (scores * worth).sum(axis=1)
    return found


def _worth(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What a unit of each item's score earns, float64 [items]; nothing where nobody has any."""
    total = scores.sum(axis=0)
    return np.where(total > 0.0, shares / np.where(total > 0.0, total, 1.0), 0.0)


def archive(scores: np.ndarray, shares: np.ndarray, size: int) -> np.ndarray:
    """Who is left when models come one by one and the worst of more than `size` leaves: int64, in order.

    Of equal ones the one that came first leaves.
    """
    members: list[int] = []
    for number in range(len(scores)):
        members.append(number)
        if len(members) > size:
            worth = fitness(scores[members], shares)
            members.pop(int(np.argmin(worth)))
    return np.array(members, dtype=np.int64)


def _drawn(weights: np.ndarray, rng: np.random.Generator, besides: int | None = None) -> int:
    """An index drawn by weight; evenly where all are zero."""
    total = weights.sum()
    if total <= 0.0:
        weights = np.ones(len(weights))
        if besides is not None:
            weights[besides] = 0.0
        total = weights.sum()
    return int(rng.choice(len(weights), p=weights / total))
