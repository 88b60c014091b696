"""HM3, hierarchical multi-objective merging: one policy for all preferences.

Zhou et al. (2025), arXiv:2409.18893.

For each candidate a preference is drawn. At the parameter level it decides the merge: where a stage before
learned a map from preference to merge (`learned_front`), what that says; else the coefficients are the mean
of those that are best at each objective, weighted by the preference, which with `dare_ties` and weights as
genes is the paper's. At the architecture level a policy walks a path through the layers of base, experts
and merge (`path_policy`), is paid the preference-weighted objectives less a price of length, and learns from
each batch. Float64 on one thread, decided by the seed and by what was told.

What differs from the paper: a walk ends when the policy says so; scales, where the space has them, are one
more dimension of its actions or (`alignment: network`) those of the scaling network, which learns from the
reward and not from hidden states; the layers' parameters are no part of the state. A path that was evaluated
before is learnt from again at no cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from evomerge.objectives.objective import Complete, Outcome
from evomerge.objectives.origin import EDITED, POLICY
from evomerge.optimizers.descent import Descent, for_preference
from evomerge.optimizers.grid import Grid, as_rows
from evomerge.optimizers.path_operators import edited
from evomerge.optimizers.path_policy import PathPolicy, Update, Walk
from evomerge.optimizers.preferences import drawn, lattice, pulled
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import Hm3Settings
from evomerge.optimizers.told import learned
from evomerge.search_space import Gene, Genome, Step

REACH = 0.25
"""With a focus, how much of their way from it preferences keep."""

TRIES = 6
"""Walks for each candidate wanted; if fewer paths are new, the rest are edits of them."""

WORTHLESS = -1.0
"""What a candidate without scores is worth, and less what breaks constraints."""


class Hm3:
    """A proposing function (see `proposals`) whose state is made of what it was told, in order.

    Attributes:
        updates: what each time that the policy learnt came to, its learning curve.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        seed: int,
        initial: Sequence[Genome],
        settings: Hm3Settings,
        focus: Sequence[float] | None = None,
    ) -> None:
        self._grid = Grid(genes)
        assert self._grid.paths is not None
        self._paths = self._grid.paths
        self._objectives, self._settings, self._focus = objectives, settings, focus
        self._initial = frozenset(map(tuple, self._grid.snap(as_rows(initial, len(genes))).tolist()))
        self._policy = PathPolicy(self._paths, objectives, seed, settings)
        rng = np.random.default_rng((seed, 2))
        self._fixed = drawn(settings.preferences, objectives, 1.0, rng)
        if settings.placed == "lattice":
            self._fixed = as_rows([*islice(lattice(objectives), settings.preferences)], objectives)
        self._learned: Callable[[np.ndarray], np.ndarray] | None = None
        self._walks: dict[Genome, Walk] = {}
        self._again: list[tuple[Genome, Walk]] = []
        self._outcomes: dict[Genome, Outcome] = {}
        self.descents: Sequence[Descent | None] = ()
        self.updates: list[Update] = []

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count or fewer, genes]."""
        fresh = [told for told in asked.told if told[0] not in self._outcomes]
        self._outcomes.update(fresh)
        done = [(genome, self._walks.pop(genome)) for genome, _ in fresh if genome in self._walks]
        self._again += done
        if len(self._again) >= self._settings.episodes:
            self._learn(asked)
        known = {*self._outcomes, *asked.pending}
        merges = self._merges(asked)
        found: list[Genome] = []
        descents: list[Descent | None] = []
        walks: list[tuple[np.ndarray, Walk]] = []
        for _ in range(TRIES * asked.count):
            if len(found) >= asked.count:
                break
            preference = self._preference(asked.rng)
            walk = self._policy.walk(preference, asked.rng)
            genome = self._genome(merges, preference, walk.steps)
            walks.append((preference, walk))
            if genome in self._outcomes:
                self._again.append((genome, walk))
            elif genome not in known:
                known.add(genome)
                found.append(genome)
                descents.append(for_preference(POLICY, preference))
                self._walks[genome] = walk
        for preference, walk in walks:
            if len(found) < asked.count:
                # The policy repeats itself: something near it.
                path = edited(self._paths, walk.steps, asked.rng)
                genome = self._genome(merges, preference, path)
                if genome not in known:
                    known.add(genome)
                    found.append(genome)
                    descents.append(for_preference(EDITED, preference))
        self.descents = descents
        return as_rows(found, len(self._grid))

    def near(self, preference: Sequence[float]) -> Hm3:
        """One that goes on near a preference from what was learnt for all: HM3's online search."""
        found = copy.deepcopy(self)
        found._focus = tuple(preference)
        return found

    def condition_on(self, merges: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take the merge of a preference from a map that was learned, not from the best of what is known."""
        self._learned = merges

    def _preference(self, rng: np.random.Generator) -> np.ndarray:
        if len(self._fixed):
            found = self._fixed[rng.integers(len(self._fixed))][None]
        else:
            found = drawn(1, self._objectives, 1.0, rng)
        row: np.ndarray = pulled(found, self._focus, REACH)[0]
        return row

    def _learn(self, asked: Asked) -> None:
        """From what was walked since, each path by the preference it was walked for."""
        worth = self._worth(asked)
        depth = len(self._paths.home)
        rewards = []
        for genome, walk in self._again:
            values, broken = worth.get(genome, (None, 0.0))
            if values is None:
                rewards.append(WORTHLESS)
                continue
            if self._settings.scalarise == "tchebycheff":
                paid = 1.0 - self._objectives * float((walk.preference * values).max())
            else:
                paid = 1.0 - float(walk.preference @ values)
            length = self._settings.length * len(walk.steps) / depth
            rewards.append(paid - length + (WORTHLESS - broken if broken > 0.0 else 0.0))
        self.updates.append(self._policy.learn([walk for _, walk in self._again], rewards))
        self._again = []

    def _worth(self, asked: Asked) -> dict[Genome, tuple[np.ndarray, float]]:
        """Genome to its values, 0 the best and 1 the worst of front and baselines, and what it breaks."""
        told = learned(asked.told, self._initial, len(self._grid), asks_again=asked.asks_again)
        if told is None:
            return {}
        broken = (
            np.maximum(told.broken, 0.0).sum(axis=1) if told.broken.size else np.zeros(len(told.keep))
        )
        rows = zip(told.genomes.tolist(), told.values, broken.tolist(), strict=True)
        return {tuple(genome): (values, excess) for genome, values, excess in rows}

    def _merges(self, asked: Asked) -> np.ndarray:
        """For each objective the coefficients that are best at it, float64 [objectives, genes].

        Among what the search was given to start from; the mean of that before it is told.
        """
        columns = ~self._grid.path_columns
        given = [
            (genome, outcome.values)
            for genome, outcome in asked.told
            if genome in self._initial and isinstance(outcome, Complete)
        ]
        if not given or not columns.any():
            start = as_rows(sorted(self._initial), len(self._grid))
            middle = start.mean(axis=0) if len(start) else (self._grid.low + self._grid.high) / 2.0
            return np.tile(middle[columns], (self._objectives, 1))
        values = np.array([row for _, row in given])
        genomes = as_rows([genome for genome, _ in given], len(self._grid))
        best = values.argmin(axis=0)
        found: np.ndarray = genomes[best][:, columns]
        return found

    def _genome(self, merges: np.ndarray, preference: np.ndarray, path: Sequence[Step]) -> Genome:
        row = np.empty((1, len(self._grid)))
        row[0, self._grid.path_columns] = self._paths.spell(path)
        own = preference @ merges if self._learned is None else self._learned(preference[None])[0]
        row[0, ~self._grid.path_columns] = own
        return tuple(self._grid.snap(row)[0].tolist())
