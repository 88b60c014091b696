"""NSGA-II in steady state: one candidate asked at a time, each result told as it comes.

After Durillo, Nebro, Luna and Alba (2009), "On the Effect of the Steady-State Selection Scheme in
Multi-Objective Genetic Algorithms": a child of two binary tournaments on (rank, crowding), and
(mu + 1) survival. The start and the operators are those of the generational form. Each ask has a random
stream of its own, keyed by seed and number, so that a replay needs the order of asks and tells alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from evomerge.objectives.objective import Outcome
from evomerge.objectives.origin import MUTATED
from evomerge.optimizers.descent import children, of
from evomerge.optimizers.genetic import TRIES, Genetic, member
from evomerge.optimizers.grid import add_new, leftovers
from evomerge.optimizers.settings import Nsga2Settings
from evomerge.optimizers.variation import CROSSOVER_SHARE
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import Gene, Genome

_START, _ASK = 0, 1


class SteadyNsga2(Genetic):
    """Steady-state NSGA-II on the grid; see `Optimizer`.

    A generation is counted as `population` asks. Failed candidates never become members; the worst of
    mu + 1 leaves: the one that breaks constraints most, else the most crowded of the last front, and of
    equals the eldest, so that evaluations that tie go on drifting.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        settings: Nsga2Settings = Nsga2Settings(),
    ) -> None:
        super().__init__(genes, objectives, population, initial, settings, whole=False)
        self._seed = seed
        self._start: list[Genome] = []
        self._starts = 0
        self._members = _Members(population, objectives)

    def ask(self) -> list[Genome]:
        """One candidate: of the start while that lasts, else a child of members."""
        rng = self._stream(_ASK, self._turns.count)
        self._descents.begin()
        batch = self._next_of_start()
        for _ in range(TRIES):
            if not batch and len(self._members) > 1:
                add_new(batch, self._child(rng), 1, self._turns)
        for _ in range(TRIES):
            if not batch:
                add_new(batch, self._fresh(rng), 1, self._turns)
        if not batch:
            batch = leftovers(self._grid, self._turns, batch, 1, rng)
        return self._asked(batch)

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """Take candidates in, one by one in the order told; see `member`."""
        told = self._turns.told(outcomes, numbers)
        for (number, genome), outcome in zip(told, outcomes, strict=True):
            known = member(outcome)
            if known is not None:
                self._members.add(number, np.array(genome), *known)

    def state_digest(self) -> str:
        """SHA-256 over members by number, their values, what was asked and what is pending.

        Streams are keyed by number and genomes are those asked, so this decides all that comes next.
        """
        digest = hashlib.sha256(self._members.to_bytes())
        rest = [self._starts, len(self._start), self._turns.digest()]
        digest.update(canonical_json(rest).encode())
        return digest.hexdigest()

    def _stream(self, kind: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, kind, number))

    def _next_of_start(self) -> list[Genome]:
        """The next point of the start; another start is drawn if workers wait and no parents are known.

        The first holds all given points, and as many others as make up a population.
        """
        batch: list[Genome] = []
        parents = len(self._members) > 1
        while not batch:
            if parents and self._starts > 1:
                self._start = []
            if not self._start:
                if self._starts == TRIES or (parents and self._starts):
                    break
                self._start = self._draw_start()
            point = np.array([self._start.pop(0)])
            self._note_start(point)
            add_new(batch, point, 1, self._turns)
        return batch

    def _draw_start(self) -> list[Genome]:
        rng = self._stream(_START, self._starts)
        points = self._given if self._starts == 0 else self._given[:0]
        count = max(self._population - len(points), 0)
        drawn = self._start_points(count, rng)
        self._starts += 1
        return [tuple(row) for row in np.concatenate([points, drawn]).tolist()]

    def _child(self, rng: np.random.Generator) -> np.ndarray:
        """Two children of one couple on the grid, float64 [2, genes]."""
        generation = self._turns.count // self._population
        parents = self._members.couple(rng)[:, None, :]
        couple = parents
        if rng.random() < CROSSOVER_SHARE:
            couple = self._variation.cross(couple, generation, rng)
        mutants = self._grid.snap(self._variation.mutate(couple[:, 0], generation, rng))
        self._descents.note(mutants, children(parents, couple))
        return mutants

    def _fresh(self, rng: np.random.Generator) -> np.ndarray:
        """A random point, or a far mutation of a member where mating gives only known ones."""
        drawn = self._grid.from_unit(rng.random((1, len(self._grid))))
        if not len(self._members):
            return drawn
        anew = rng.random(drawn.shape) < 0.5
        parent = self._members.genome(int(rng.integers(len(self._members))))
        mutant = self._grid.snap(np.where(anew, drawn, parent))
        self._descents.note(mutant, of(MUTATED, parent))
        return mutant


class _Members:
    """At most `limit` members, eldest first, with who dominates whom kept up to date.

    `_values` float64 [members, objectives]; `_beats[i, j]` whether member i dominates member j.
    """

    def __init__(self, limit: int, objectives: int) -> None:
        self._limit = limit
        self._numbers: list[int] = []
        self._genomes: list[np.ndarray] = []
        self._values = np.empty((0, objectives))
        self._excess = np.empty(0)
        self._beats = np.empty((0, 0), dtype=bool)
        self._ranks: np.ndarray | None = None
        self._crowding: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def genome(self, index: int) -> np.ndarray:
        """Genome of the member at an index, float64 [genes]."""
        return self._genomes[index]

    def to_bytes(self) -> bytes:
        """Numbers, values and violations, for a digest."""
        numbers = np.array(self._numbers, dtype="<i8").tobytes()
        return numbers + self._values.astype("<f8").tobytes() + self._excess.astype("<f8").tobytes()

    def add(self, number: int, genome: np.ndarray, values: Sequence[float], excess: float) -> None:
        """Take a candidate in; if there are too many, the worst leaves."""
        row = np.array(values, dtype=np.float64)
        beats, beaten = self._dominance(row, excess)
        size = len(self)
        grown = np.zeros((size + 1, size + 1), dtype=bool)
        grown[:size, :size] = self._beats
        grown[size, :size], grown[:size, size] = beats, beaten
        self._beats = grown
        self._values = np.vstack([self._values, row])
        self._excess = np.append(self._excess, excess)
        self._numbers.append(number)
        self._genomes.append(genome)
        self._ranks, self._crowding = None, {}
        if len(self) > self._limit:
            self._remove(self._worst())

    def couple(self, rng: np.random.Generator) -> np.ndarray:
        """Two parents, float64 [2, genes], each the winner of a binary tournament; different if can be."""
        chosen: list[int] = []
        while len(chosen) < 2:
            first, second = int(rng.integers(len(self))), int(rng.integers(len(self) - 1))
            second += second >= first
            winner = self._better(first, second, rng)
            chosen.append((first + second - winner) if winner in chosen else winner)
        return np.array([self._genomes[index] for index in chosen])

    def _dominance(self, row: np.ndarray, excess: float) -> tuple[np.ndarray, np.ndarray]:
        """Whether a candidate dominates each member, and each member it (constrained, Deb 2002)."""
        below = (row <= self._values).all(axis=1) & (row < self._values).any(axis=1)
        above = (row >= self._values).all(axis=1) & (row > self._values).any(axis=1)
        if excess <= 0.0 and not self._excess.any():
            return np.asarray(below), np.asarray(above)
        equal = excess == self._excess
        less: np.ndarray = excess < self._excess
        more: np.ndarray = excess > self._excess
        return less | (equal & below), more | (equal & above)

    def _rank(self) -> np.ndarray:
        """Front of each member, int [members], 0 for the non-dominated."""
        if self._ranks is None:
            ranks = np.full(len(self), -1)
            beaten = self._beats.sum(axis=0)
            rank = 0
            front = beaten == 0
            while front.any():
                ranks[front] = rank
                beaten = beaten - self._beats[front].sum(axis=0)
                rank += 1
                front = (beaten == 0) & (ranks < 0)
            self._ranks = ranks
        return self._ranks

    def _distances(self, rank: int) -> np.ndarray:
        """Crowding distance of each member of a front (others 0), float64 [members]."""
        if rank not in self._crowding:
            distances = np.zeros(len(self))
            inside = np.flatnonzero(self._rank() == rank)
            distances[inside] = crowding(self._values[inside])
            self._crowding[rank] = distances
        return self._crowding[rank]

    def _better(self, first: int, second: int, rng: np.random.Generator) -> int:
        ranks = self._rank()
        if ranks[first] != ranks[second]:
            return first if ranks[first] < ranks[second] else second
        distances = self._distances(int(ranks[first]))
        if distances[first] != distances[second]:
            return first if distances[first] > distances[second] else second
        return first if rng.random() < 0.5 else second

    def _worst(self) -> int:
        ranks = self._rank()
        last = np.flatnonzero(ranks == ranks.max())
        # The first of equals: members stand eldest first.
        return int(last[np.argmin(self._distances(int(ranks.max()))[last])])

    def _remove(self, index: int) -> None:
        ranks, last = self._rank(), self._rank()[index]
        kept = np.arange(len(self)) != index
        del self._numbers[index], self._genomes[index]
        self._values, self._excess = self._values[kept], self._excess[kept]
        self._beats = self._beats[np.ix_(kept, kept)]
        # It was of the last front, so nobody's rank depends on it; its own front is less crowded now.
        self._ranks = ranks[kept]
        self._crowding = {
            rank: distances[kept] for rank, distances in self._crowding.items() if rank != last
        }


def crowding(values: np.ndarray) -> np.ndarray:
    """Crowding distance (Deb et al. 2002) of a front, float64 [members, objectives] to [members].

    Equal values are taken in the order of the rows; an objective on which all agree counts nothing.
    """
    count = len(values)
    distances = np.zeros(count)
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        span = ordered[-1] - ordered[0]
        if span <= 0.0:
            continue
        gaps = np.full(count, np.inf)
        gaps[1:-1] = (ordered[2:] - ordered[:-2]) / span
        distances[order] += gaps
    return distances
