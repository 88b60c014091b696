"""NSGA-II (Deb et al. 2002) by pymoo, generational, for merge genomes.

pymoo is known here and in `variation` only.
Differences from pymoo's own: a structured start, variation by experts and layer ranges next to SBX and
polynomial mutation, everything on the grid, no genome asked twice, and survival with a defined order of
ties. A failed candidate is infeasible without degree and never enters the population; a raced one, which
has no values to be compared by, enters it only while there are too few others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.config import Config
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from evomerge.objectives.objective import Outcome
from evomerge.objectives.origin import MUTATED
from evomerge.optimizers.descent import children, of
from evomerge.optimizers.genetic import TRIES, Genetic, member
from evomerge.optimizers.grid import Grid, Turns, add_new, genome_key, leftovers
from evomerge.optimizers.settings import Nsga2Settings
from evomerge.optimizers.variation import CROSSOVER_SHARE, Variation
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import Gene, Genome

# pymoo prints hints to stdout, where tables and JSON go.
Config.show_compile_hint = False
Config.warnings["not_compiled"] = False


class Nsga2(Genetic):
    """NSGA-II on the grid; see `Optimizer`."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
        settings: Nsga2Settings = Nsga2Settings(),
    ) -> None:
        super().__init__(genes, objectives, population, initial, settings, whole=True)
        self._rng = np.random.default_rng(seed)
        self._generation = 0
        self._algorithm = _Algorithm(
            pop_size=population,
            # Never used: every batch without parents is made here.
            sampling=np.empty((0, len(self._grid))),
            survival=_Survival(),
            mating=_Mating(
                TournamentSelection(func_comp=binary_tournament),
                _BlockCrossover(self._variation),
                _BlockMutation(self._variation),
                repair=_Snap(self._grid),
                eliminate_duplicates=_NotAsked(self._turns),
                n_max_iterations=TRIES,
            ),
            output=None,
            seed=self._rng,
        )
        problem = Problem(
            n_var=len(self._grid),
            n_obj=objectives,
            n_ieq_constr=1,
            xl=self._grid.low,
            xu=self._grid.high,
        )
        self._algorithm.setup(problem, termination=_Endless())
        self._algorithm.pop = Population.empty()
        self._algorithm.is_initialized = True
        self._algorithm.n_iter = 1

    def ask(self) -> list[Genome]:
        """The next generation."""
        self._turns.may_ask()
        self._descents.begin()
        batch: list[Genome] = []
        limit = self._population
        if self._generation == 0:
            self._note_start(self._given)
            add_new(batch, self._given, len(self._given), self._turns)
            limit = max(limit, len(batch))
        if len(self._algorithm.pop):
            offspring = self._algorithm.ask()
            if offspring is not None:
                self._descents.note(offspring.get("X"), [each.get("descent") for each in offspring])
                add_new(batch, offspring.get("X"), limit, self._turns)
        for _ in range(TRIES):
            if len(batch) < limit:
                add_new(batch, self._fresh(limit - len(batch)), limit, self._turns)
        if len(batch) < limit:
            batch += leftovers(self._grid, self._turns, batch, limit - len(batch), self._rng)
        return self._asked(batch)

    def _fresh(self, count: int) -> np.ndarray:
        """Points without parents, or far mutations of members when mating gives only known ones."""
        members = self._algorithm.pop
        if len(members):
            points = members.get("X")[self._rng.integers(len(members), size=count)]
            anew = self._rng.random(points.shape) < 0.5
            drawn = self._grid.from_unit(self._rng.random(points.shape))
            # Slots of two paths in one row may spell a third otherwise than it is spelled.
            mutants = self._grid.snap(np.where(anew, drawn, points))
            self._descents.note(mutants, [of(MUTATED, parent) for parent in points])
            return mutants
        points = self._start_points(count, self._rng)
        self._note_start(points)
        return points

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """Select the next parents among the last ones and the candidates told; see `member`."""
        batch = self._turns.told(outcomes, numbers)
        self._generation += 1
        told = [(genome, member(o)) for (_, genome), o in zip(batch, outcomes, strict=True)]
        found = [(genome, *known) for genome, known in told if known is not None]
        if not found:
            return
        genomes, values, excess = zip(*found, strict=True)
        # One array each: rows of one would keep a generation in memory for each member of it that is left.
        infills = Population.new("X", [np.array(genome) for genome in genomes])
        infills.set("F", np.array(values, dtype=np.float64))
        infills.set("G", np.array(excess, dtype=np.float64)[:, None])
        self._algorithm.tell(infills=infills)

    def state_digest(self) -> str:
        """SHA-256 over members, their values, what was asked, and the random state."""
        members = self._algorithm.pop
        digest = hashlib.sha256()
        for name in ("X", "F", "G") if len(members) else ():
            digest.update(members.get(name).astype("<f8").tobytes())
        state = str(self._rng.bit_generator.state)
        rest = [self._generation, len(members), self._turns.digest(), state]
        digest.update(canonical_json(rest).encode())
        return digest.hexdigest()


class _Algorithm(NSGA2):  # type: ignore[misc]
    def _set_optimum(self, **kwargs: Any) -> None:
        """Nothing: fronts come from the ledger."""


class _Endless(NoTermination):  # type: ignore[misc]
    """Goes on even when mating finds nothing new, after which pymoo would stop for good."""

    def has_terminated(self) -> bool:
        return False


class _Survival(RankAndCrowding):  # type: ignore[misc]
    """Rank and crowding, feasible first, with ties broken by chance in a defined order.

    pymoo sorts crowding (where infinities tie) by quicksort, whose order of ties depends on the
    processor; a resume on another machine would then go another way.
    """

    def do(
        self,
        problem: Any,
        pop: Any,
        *args: Any,
        n_survive: int | None = None,
        random_state: np.random.Generator | None = None,
        **kwargs: Any,
    ) -> Any:
        if len(pop) == 0:
            return pop
        assert random_state is not None
        limit = len(pop) if n_survive is None else min(n_survive, len(pop))
        violation = pop.get("CV")[:, 0]
        feasible = np.flatnonzero(violation <= 0.0)
        infeasible = np.flatnonzero(violation > 0.0)
        survivors: list[int] = []
        values = pop.get("F").astype(np.float64)
        if len(feasible):
            fronts = self.nds.do(values[feasible], n_stop_if_ranked=min(limit, len(feasible)))
            for rank, front in enumerate(fronts):
                members = feasible[front]
                room = limit - len(survivors)
                crowding = self.crowding_func.do(values[members], n_remove=max(len(members) - room, 0))
                for member, distance in zip(members, crowding, strict=True):
                    pop[member].set("rank", rank)
                    pop[member].set("crowding", distance)
                if len(members) > room:
                    shuffled = random_state.permutation(len(members))
                    order = shuffled[np.argsort(-crowding[shuffled], kind="stable")]
                    members = members[order[:room]]
                survivors.extend(members.tolist())
        order = infeasible[np.argsort(violation[infeasible], kind="stable")]
        survivors.extend(order[: limit - len(survivors)].tolist())
        return pop[survivors]


class _Mating(Mating):  # type: ignore[misc]
    """pymoo's, which also says of each child what it descends from: `descent`."""

    def _do(
        self,
        problem: Any,
        pop: Any,
        n_offsprings: int,
        parents: Any = None,
        random_state: np.random.Generator | None = None,
        **kwargs: Any,
    ) -> Any:
        couples = self.selection(
            problem, pop, -(-n_offsprings // 2), n_parents=2, random_state=random_state, **kwargs
        )
        off = self.crossover(problem, couples, random_state=random_state, **kwargs)
        rows = np.array(
            [[parent.get("X") for parent in couple] for couple in couples], dtype=np.float64
        )
        before = off.get("X").astype(np.float64).reshape(2, len(rows), -1)
        for child, descent in zip(off, children(rows.swapaxes(0, 1), before), strict=True):
            child.set("descent", descent)
        return self.mutation(problem, off, random_state=random_state, **kwargs)


class _Snap(Repair):  # type: ignore[misc]
    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self._grid = grid

    def _do(self, problem: Any, X: np.ndarray, **kwargs: Any) -> np.ndarray:  # noqa: N803
        return self._grid.snap(X)


class _NotAsked(DuplicateElimination):  # type: ignore[misc]
    """Keeps what was never asked, and one of equals; set look-ups instead of distances.

    The parents were asked, so that only the children made so far (the last of `args`) are looked at.
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def do(self, pop: Any, *args: Any, **kwargs: Any) -> Any:
        taken = {genome_key(each.get("X")) for each in args[-1]}
        kept = []
        for index, each in enumerate(pop):
            key = genome_key(each.get("X"))
            if key not in taken and not self._turns.knows(key):
                taken.add(key)
                kept.append(index)
        return pop[kept]


class _BlockCrossover(Crossover):  # type: ignore[misc]
    """`Variation.cross` in pymoo's form."""

    def __init__(self, variation: Variation) -> None:
        super().__init__(2, 2, prob=CROSSOVER_SHARE)
        self._variation = variation

    def _do(
        self,
        problem: Any,
        X: np.ndarray,  # noqa: N803
        *args: Any,
        random_state: np.random.Generator,
        algorithm: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        return self._variation.cross(X.astype(np.float64), algorithm.n_iter - 1, random_state)


class _BlockMutation(Mutation):  # type: ignore[misc]
    """`Variation.mutate` in pymoo's form."""

    def __init__(self, variation: Variation) -> None:
        super().__init__(prob=1.0)
        self._variation = variation

    def _do(
        self,
        problem: Any,
        X: np.ndarray,  # noqa: N803
        *args: Any,
        random_state: np.random.Generator,
        algorithm: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        return self._variation.mutate(X.astype(np.float64), algorithm.n_iter - 1, random_state)
