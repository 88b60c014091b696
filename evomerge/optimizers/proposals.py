"""An optimizer made of one function that proposes points; what else an optimizer owes is done here.

The function sees all that was told so far and a random generator of its own, and gives points: rows of gene
values. They are put on the grid, known ones are dropped, what lacks is drawn at random. Since it is asked
anew each time from what the ledger holds, a campaign resumes by asking it again: it must keep no state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evomerge.objectives.forecast import Forecast
from evomerge.objectives.objective import Complete, Objective, Outcome, Raced
from evomerge.objectives.origin import GIVEN, PROPOSED, RANDOM
from evomerge.optimizers.descent import Descent, Descents, of
from evomerge.optimizers.grid import Grid, Turns, add_new, as_rows, leftovers
from evomerge.optimizers.optimizer import Note, Optimizer
from evomerge.recipe.recipe import canonical_json
from evomerge.search_space import Gene, Genome

_TRIES = 20


@dataclass(frozen=True)
class Asked:
    """What a proposing function knows when it is asked.

    Attributes:
        genes: what is searched, in genome order, each with `low`, `high` and `step`.
        objectives: in the order of an outcome's values.
        told: every candidate with its outcome, in the order told. The values of a `Complete` are minimised.
        count: how many points are wanted; more or fewer may be given.
        rng: for this ask alone; the same again when a campaign resumes.
        settings: of the class that the optimizer was registered with.
        pending: asked and not told, in the order asked; with those that this ask already holds.
        asks_again: whether a replay works this ask out anew, so that it must not come out otherwise than it
            did in an earlier version; else the replay adopts what is on record.
    """

    genes: tuple[Gene, ...]
    objectives: tuple[Objective, ...]
    told: tuple[tuple[Genome, Outcome], ...]
    count: int
    rng: np.random.Generator
    settings: Any
    pending: tuple[Genome, ...] = ()
    asks_again: bool = True

    @property
    def low(self) -> np.ndarray:
        """Lower bounds, float64 [genes]."""
        return np.array([gene.low for gene in self.genes])

    @property
    def high(self) -> np.ndarray:
        """Upper bounds, float64 [genes]."""
        return np.array([gene.high for gene in self.genes])

    def complete(self) -> tuple[np.ndarray, np.ndarray]:
        """Candidates with values that keep all constraints: float64 [n, genes], and [n, objectives].

        Values are minimised: a metric to maximise has the other sign.
        """
        kept = [
            (genome, outcome.values)
            for genome, outcome in self.told
            if isinstance(outcome, Complete) and all(v <= 0 for v in outcome.violations)
        ]
        points = np.array([genome for genome, _ in kept], dtype=np.float64)
        values = np.array([numbers for _, numbers in kept], dtype=np.float64)
        return points.reshape(-1, len(self.genes)), values.reshape(-1, len(self.objectives))


Propose = Callable[[Asked], Any]
"""Gives float [points, genes], or a single point."""


@runtime_checkable
class Stateful(Protocol):
    """A proposing function whose state is made by its asks as well."""

    def adopt(self, proposed: Sequence[Genome], recorded: Sequence[Genome]) -> None:
        """The batch that was just proposed stands on record a little otherwise."""
        ...


@runtime_checkable
class Forecasting(Protocol):
    """A proposing function that says what it expects of the points that it last proposed."""

    forecast: Forecast | None


@runtime_checkable
class Descending(Protocol):
    """A proposing function that says what each of the points that it last proposed was made of."""

    descents: Sequence[Descent | None]


@runtime_checkable
class Focusing(Protocol):
    """A proposing function that learnt for all preferences and can go on near one of them."""

    def near(self, preference: Sequence[float]) -> Propose:
        """One that goes on from what this one learnt, which stays as it is."""
        ...


@runtime_checkable
class Conditioned(Protocol):
    """A proposing function that chooses a merge for a preference, and can do so by a map learned before."""

    def condition_on(self, merges: Callable[[np.ndarray], np.ndarray]) -> None:
        """From now on, merges are what this gives: float64 [n, genes] for preferences [n, objectives]."""
        ...


class Proposals:
    """An `Optimizer` that asks a function for points.

    Attributes:
        asks_again: as that of `Asked`.
    """

    asks_again = True

    def __init__(
        self,
        propose: Propose,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        population: int,
        seed: int,
        initial: Sequence[Genome],
        settings: Any,
        *,
        steady: bool,
    ) -> None:
        self._propose, self._settings, self._seed, self._steady = propose, settings, seed, steady
        self._genes, self._objectives = tuple(genes), tuple(objectives)
        self._grid = Grid(genes)
        self._turns = Turns(len(objectives), whole=not steady)
        self._population = 1 if steady else population
        given = as_rows(initial, len(self._grid))
        self._initial = self._grid.snap(given)
        self._told: list[tuple[Genome, Outcome]] = []
        self._descents = Descents()
        self._last: list[Genome] = []
        self._digest = hashlib.sha256()

    @property
    def proposing(self) -> Propose:
        """The function."""
        return self._propose

    @property
    def wants_items(self) -> bool:
        """Whether the function looks at the scores of items: it then has a true attribute of this name."""
        return bool(getattr(self._propose, "wants_items", False))

    def ask(self) -> list[Genome]:
        """The given genomes first, then what the function proposes.

        Raises:
            ValueError: if that is not finite or has not one value for each gene.
        """
        self._turns.may_ask()
        self._last = self._batch()
        self._descents.note_rest(self._last, of(RANDOM))
        return self._turns.asked(self._last)

    def descents(self) -> list[Descent | None]:
        """Of the batch that was last asked, as far as the function says."""
        return self._descents.of(self._last)

    def _batch(self) -> list[Genome]:
        """The next batch, which is not noted yet."""
        rng = np.random.default_rng((self._seed, self._turns.count))
        self._descents.begin()
        batch: list[Genome] = []
        limit = self._population
        if self._steady or self._turns.count == 0:
            self._descents.note(self._initial, of(GIVEN))
            add_new(batch, self._initial, 1 if self._steady else len(self._initial), self._turns)
            limit = max(limit, len(batch))
        for _ in range(_TRIES):
            if len(batch) < limit:
                add_new(batch, self._proposed(limit - len(batch), batch, rng), limit, self._turns)
        if len(batch) < limit:
            batch += leftovers(self._grid, self._turns, batch, limit - len(batch), rng)
        for _ in range(_TRIES):
            if len(batch) < limit:
                drawn = self._grid.from_unit(rng.random((limit - len(batch), len(self._grid))))
                add_new(batch, drawn, limit, self._turns)
        return batch

    def _proposed(self, count: int, batch: list[Genome], rng: np.random.Generator) -> np.ndarray:
        pending = (*self._turns.pending, *batch)
        asked = Asked(
            self._genes,
            self._objectives,
            tuple(self._told),
            count,
            rng,
            self._settings,
            pending,
            self.asks_again or isinstance(self._propose, Stateful),
        )
        points = np.atleast_2d(np.asarray(self._propose(asked), dtype=np.float64))
        if points.size == 0:
            return np.empty((0, len(self._genes)))
        if points.shape[1:] != (len(self._genes),) or not np.isfinite(points).all():
            wrong = f"proposals must be finite numbers [points, {len(self._genes)} genes]"
            raise ValueError(f"{wrong}; found shape {points.shape}")
        rows = self._grid.snap(points)
        descents = self._described(len(rows))
        if len(descents) == len(rows):
            self._descents.note(rows, descents)
        return rows

    def _described(self, count: int) -> Sequence[Descent | None]:
        """What the points were made of that were just proposed."""
        if isinstance(self._propose, Descending):
            return self._propose.descents
        return [of(PROPOSED)] * count

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """Take note of outcomes for the asks to come."""
        told = self._turns.told(outcomes, numbers)
        for (number, genome), outcome in zip(told, outcomes, strict=True):
            self._told.append((genome, self._plain(outcome)))
            values = [*outcome.values, *outcome.violations] if isinstance(outcome, Complete) else []
            self._digest.update(canonical_json([number, type(outcome).__name__, values]).encode())

    def know(self, known: Sequence[tuple[Genome, Outcome]]) -> None:
        """Take what others were told before, in order."""
        self._turns.know(genome for genome, _ in known)
        self._told += [(genome, self._plain(outcome)) for genome, outcome in known]

    def _plain(self, outcome: Outcome) -> Outcome:
        """What the function sees: neither a failure's class nor a raced bound must steer a search."""
        return Raced(0, (0.0,) * len(self._objectives)) if isinstance(outcome, Raced) else outcome

    def state_digest(self) -> str:
        """SHA-256 (hex) over all that was asked and told."""
        parts = [self._turns.digest(), self._digest.hexdigest()]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


@runtime_checkable
class Proposing(Protocol):
    """An optimizer whose points a function proposes, or (None) not now."""

    @property
    def proposing(self) -> Propose | None:
        """The function."""
        ...


def focusing(optimizer: Optimizer) -> Focusing | None:
    """What a search learnt, if a refinement can be carried out by that."""
    found = optimizer.proposing if isinstance(optimizer, Proposing) else None
    return found if isinstance(found, Focusing) else None


class Adopted(Proposals):
    """Proposals of which a replay adopts what is on record; see `AdoptingOptimizer`."""

    asks_again = False
    _forecast: Forecast | None = None

    def ask(self) -> list[Genome]:
        """As `Proposals.ask`; what is expected of the batch is kept."""
        self._forecast = None
        return super().ask()

    def _proposed(self, count: int, batch: list[Genome], rng: np.random.Generator) -> np.ndarray:
        points = super()._proposed(count, batch, rng)
        if self._forecast is None:
            # Of the first points; what fills a batch up, where some were known, adds little.
            self._forecast = self._foreseen()
        return points

    def _foreseen(self) -> Forecast | None:
        """What is expected of the points that were just proposed."""
        return self._propose.forecast if isinstance(self._propose, Forecasting) else None

    def notes(self, genomes: Sequence[Genome]) -> list[Note | None]:
        """Nothing is wanted."""
        return [None] * len(genomes)

    def forecast(self) -> Forecast | None:
        """What the function expects of the last batch, if it says so."""
        return self._forecast

    def adopt(
        self,
        genomes: Sequence[Genome],
        notes: Sequence[Note | None],
        forecast: Forecast | None = None,
    ) -> None:
        """Note a recorded batch as asked. A function with a state that asks make is asked again for that."""
        self._turns.may_ask()
        self._forecast = forecast
        if isinstance(self._propose, Stateful):
            self._propose.adopt(self._batch(), genomes)
        self._turns.asked(list(genomes))
