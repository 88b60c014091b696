"""Stages: the merge, then the path of layers, or the other way round, or both, one after another.

Each stage searches its part of the genome with an optimizer of its own, from the front of all that was told
before it. What it does not search is that of a member of the front, and one more gene says of which. What was
evaluated in an earlier stage is told to the next at no cost. It is one sequence of asks and tells, so that a
campaign has one ledger, one front and one resume.

A first stage may learn from slopes: of the merge, with all layers in order. What they cost is spent from its
evaluations, and what was learned is a map from preference to merge, which `hm3` then goes by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from evomerge.objectives.objective import Complete, Objective, Outcome
from evomerge.objectives.pareto import non_dominated
from evomerge.optimizers.descent import Descent, Descents
from evomerge.optimizers.front_map import FrontMap
from evomerge.optimizers.grid import Grid, Turns, as_rows
from evomerge.optimizers.kinds import make_optimizer, optimizer_kind
from evomerge.optimizers.learned_front import LearnedFront
from evomerge.optimizers.optimizer import KnowsDescent, Note, Optimizer
from evomerge.optimizers.proposals import Conditioned, Proposals, Propose
from evomerge.optimizers.slopes import (
    MOST_LEARNING,
    GoneOnWith,
    Slope,
    SlopeGround,
    SlopeOptimizer,
    SlopeRequest,
)
from evomerge.optimizers.stage import LEARNING, Stage, refuse_stages
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import Gene, Genome

MEMBERS = 16
"""Most members of a front that a stage starts from, spread evenly over the first objective."""

TRIES = 20
"""Batches without a new genome before a stage is over."""


class Stages:
    """An `Optimizer` in generations that is several, one after the other; also a `SlopeOptimizer`.

    Raises:
        ConfigError: E121, as `refuse_stages`.
    """

    _inner: Optimizer
    _given_up: GoneOnWith | None = None

    def __init__(
        self,
        stages: Sequence[Stage],
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        population: int,
        seed: int,
        initial: Sequence[Genome] = (),
    ) -> None:
        refuse_stages(stages, genes)
        self._stages, self._objectives = tuple(stages), tuple(objectives)
        self._population, self._seed = population, seed
        self._grid = Grid(genes)
        given = np.array(list(initial), dtype=np.float64).reshape(-1, len(self._grid))
        self._given: list[Genome] = [tuple(row) for row in self._grid.snap(given).tolist()]
        self._turns = Turns(len(objectives), whole=True)
        self._known: dict[Genome, Outcome] = {}
        self._descents = Descents()
        self._batch: list[Genome] = []
        self._number = -1
        self._asked, self._learning = 0, 0.0
        self._map: FrontMap | None = None
        self._inner_batch: list[Genome] = []
        self._next()

    @property
    def wants_items(self) -> bool:
        """Whether a stage looks at the score of every item: also of what an earlier one evaluated."""
        return any(optimizer_kind(stage.kind).wants_items for stage in self._stages)

    @property
    def stage(self) -> int:
        """Number of the stage that asked last."""
        return self._number

    @property
    def proposing(self) -> Propose | None:
        """What proposes the points of the stage that asked last, where those are whole genomes."""
        whole = bool(self._columns.all())
        return self._inner.proposing if whole and isinstance(self._inner, Proposals) else None

    def ask(self) -> list[Genome]:
        """The next batch of the stage, or the first of the next one."""
        self._turns.may_ask()
        limit = self._stages[self._number].evaluations
        last = self._number + 1 == len(self._stages)
        if not last and limit is not None and self._asked + self._learning >= limit:
            self._next()
        while True:
            for _ in range(TRIES):
                self._inner_batch = self._whole(self._inner.ask())
                self._note_descents()
                new = [genome for genome in self._inner_batch if genome not in self._known]
                if new:
                    self._asked += len(new)
                    self._batch = list(dict.fromkeys(new))
                    return self._turns.asked(self._batch)
                if not self._inner_batch:
                    break
                self._tell_inner()
            if self._number + 1 == len(self._stages):
                self._batch = []
                return self._turns.asked(self._batch)
            self._next()

    @property
    def given_up(self) -> GoneOnWith | None:
        """That of the first stage."""
        return self._given_up

    def begin(self, ground: SlopeGround) -> None:
        """What the first stage has to learn from."""
        if isinstance(self._inner, SlopeOptimizer):
            self._inner.begin(ground)

    def slopes(self) -> list[SlopeRequest]:
        """Those that the first stage wants, at whole genomes, while they have cost less than half of it."""
        if not isinstance(self._inner, SlopeOptimizer):
            return []
        limit = self._stages[self._number].evaluations
        if limit is not None and self._learning >= MOST_LEARNING * limit:
            self._inner.enough()
        requests = self._inner.slopes()
        wholes = self._whole([request.genome for request in requests])
        return [replace(request, genome=whole) for request, whole in zip(requests, wholes, strict=True)]

    def adopt_slopes(self, notes: Mapping[int, Note | None]) -> None:
        """Take the lesson's step as it is on record."""
        assert isinstance(self._inner, SlopeOptimizer)
        self._inner.adopt_slopes(notes)

    def enough(self) -> None:
        """No further slopes can be had."""
        if isinstance(self._inner, SlopeOptimizer):
            self._inner.enough()

    def tell_slopes(self, slopes: Sequence[Slope | None]) -> None:
        """Answers to the first stage, whose genes are those of the merge."""
        assert isinstance(self._inner, SlopeOptimizer)
        self._inner.tell_slopes([None if each is None else self._own_part(each) for each in slopes])
        self._given_up = self._inner.given_up
        self._learning += sum(each.cost for each in slopes if each is not None)

    def _own_part(self, slope: Slope) -> Slope:
        found = slope.gradient
        return replace(slope, gradient=found[self._columns]) if found.size else slope

    def descents(self) -> list[Descent | None]:
        """Of the last batch, by the stage's optimizer; parents as genomes of the campaign."""
        return self._descents.of(self._batch)

    def _note_descents(self) -> None:
        self._descents.begin()
        if isinstance(self._inner, KnowsDescent):
            self._descents.note(
                as_rows(self._inner_batch, len(self._grid)),
                [None if each is None else self._in_full(each) for each in self._inner.descents()],
            )

    def _in_full(self, descent: Descent) -> Descent:
        whole = self._whole([tuple(parent.tolist()) for parent in descent.parents])
        return replace(descent, parents=tuple(map(np.array, whole)))

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """The outcomes of the last batch."""
        told = self._turns.told(outcomes, numbers)
        self._known.update((genome, o) for (_, genome), o in zip(told, outcomes, strict=True))
        self._tell_inner()

    def state_digest(self) -> str:
        """SHA-256 (hex) of the stage, of its optimizer, and of all that was asked and told."""
        told = [[*genome, *getattr(outcome, "values", ())] for genome, outcome in self._known.items()]
        parts = [self._number, self._asked, self._inner.state_digest(), self._turns.digest(), told]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def _tell_inner(self) -> None:
        if self._inner_batch:
            self._inner.tell([self._known[genome] for genome in self._inner_batch])
        self._inner_batch = []

    def _next(self) -> None:
        """Begin the next stage from the front so far, and from the map if one was learned."""
        if self._number == 0 and isinstance(self._inner, LearnedFront):
            self._map = self._inner.lesson.map if self._inner.lesson.has_taken_steps else None
        self._number += 1
        self._asked, self._learning = 0, 0.0
        stage = self._stages[self._number]
        members = self._front() or self._given
        paths = self._grid.path_columns
        columns = {"merge": ~paths, "path": paths, "both": np.ones(len(self._grid), dtype=bool)}
        # HM3 chooses the merge by preference itself, from those of the front.
        self._columns = columns["both" if stage.kind == "hm3" else stage.searches]
        rows = np.array(members, dtype=np.float64).reshape(-1, len(self._grid))
        frozen = [tuple(row) for row in rows[:, ~self._columns].tolist()]
        if self._number == 0 and stage.kind in LEARNING:
            frozen = [self._home()] * len(rows)  # slopes are those of layers in order
        self._frozen = list(dict.fromkeys(frozen)) or [self._home()]
        genes = [gene for gene, own in zip(self._grid.genes, self._columns, strict=True) if own]
        initial = [tuple(row) for row in rows[:, self._columns].tolist()]
        self._chooses = len(self._frozen) > 1
        if self._chooses:
            last = float(len(self._frozen) - 1)
            genes.insert(0, Gene("member", 0.0, last, 1.0, "member", "*", ()))
            numbers = [float(self._frozen.index(each)) for each in frozen]
            initial = [(number, *row) for number, row in zip(numbers, initial, strict=True)]
        self._inner = make_optimizer(
            stage.kind,
            genes,
            self._objectives,
            population=self._population,
            seed=self._seed + self._number,
            initial=list(dict.fromkeys(initial)),
            settings=stage.settings,
        )
        proposing = None
        if isinstance(self._inner, Proposals):
            proposing, self._inner.asks_again = self._inner.proposing, True
        if self._map is not None and isinstance(proposing, Conditioned):
            proposing.condition_on(self._map.points)
        self._inner_batch = []

    def _home(self) -> Genome:
        """What is not searched, where nothing was given: all layers in order, coefficients in the middle."""
        row = (self._grid.low + self._grid.high) / 2.0
        if self._grid.paths is not None:
            row[self._grid.path_columns] = self._grid.paths.spell(self._grid.paths.home)
        return tuple(self._grid.snap(row[None])[0][~self._columns].tolist())

    def _front(self) -> list[Genome]:
        """Non-dominated genomes that keep all bounds, by the first objective; `MEMBERS` of them at most."""
        found = [
            (outcome.values, genome)
            for genome, outcome in self._known.items()
            if isinstance(outcome, Complete) and all(v <= 0.0 for v in outcome.violations)
        ]
        if not found:
            return []
        best = non_dominated(np.array([values for values, _ in found]))
        chosen = sorted(each for each, good in zip(found, best, strict=True) if good)
        places = np.unique(
            np.linspace(0, len(chosen) - 1, min(MEMBERS, len(chosen))).round().astype(int)
        )
        return [chosen[place][1] for place in places.tolist()]

    def _whole(self, batch: Sequence[Genome]) -> list[Genome]:
        """Genomes of a stage as those of the campaign."""
        rows = np.empty((len(batch), len(self._grid)))
        for row, genome in zip(rows, batch, strict=True):
            number, own = (int(genome[0]), genome[1:]) if self._chooses else (0, genome)
            row[self._columns], row[~self._columns] = own, self._frozen[number]
        return [tuple(row) for row in self._grid.snap(rows).tolist()]
