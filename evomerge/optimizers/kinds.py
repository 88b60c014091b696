"""The kinds of optimizers there are: what each is called, its settings, and how one is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evomerge.errors import ConfigError, Problem
from evomerge.objectives.objective import Objective
from evomerge.optimizers.optimizer import Optimizer, Schedule
from evomerge.optimizers.random_search import RandomSearch
from evomerge.optimizers.settings import Nsga2Settings, Option, RandomSettings, read_settings
from evomerge.search_space import Gene, Genome


class Maker(Protocol):
    """Makes an optimizer; loads its library only now."""

    def __call__(
        self,
        genes: Sequence[Gene],
        objectives: Sequence[Objective],
        population: int,
        seed: int,
        initial: Sequence[Genome],
        settings: Any,
        schedule: Schedule,
    ) -> Optimizer:
        """An optimizer that was asked nothing yet; arguments as in `make_optimizer`."""
        ...


@dataclass(frozen=True)
class OptimizerKind:
    """A kind of optimizer: one line about it, the dataclass of its settings, and what makes one."""

    about: str
    settings: type
    make: Maker


def _nsga2(
    genes: Sequence[Gene],
    objectives: Sequence[Objective],
    population: int,
    seed: int,
    initial: Sequence[Genome],
    settings: Nsga2Settings,
    schedule: Schedule,
) -> Optimizer:
    if schedule == "steady_state":
        from evomerge.optimizers.steady_nsga2 import SteadyNsga2

        return SteadyNsga2(genes, len(objectives), population, seed, initial, settings)
    from evomerge.optimizers.nsga2 import Nsga2

    return Nsga2(genes, len(objectives), population, seed, initial, settings)


def _random(
    genes: Sequence[Gene],
    objectives: Sequence[Objective],
    population: int,
    seed: int,
    initial: Sequence[Genome],
    settings: RandomSettings,
    schedule: Schedule,
) -> Optimizer:
    steady = schedule == "steady_state"
    return RandomSearch(genes, len(objectives), population, seed, initial, settings, steady=steady)


KINDS: dict[str, OptimizerKind] = {
    "nsga2": OptimizerKind(
        "NSGA-II with a structured start and operators that know experts and layers",
        Nsga2Settings,
        _nsga2,
    ),
    "random": OptimizerKind("random search on the grid, the baseline", RandomSettings, _random),
}
"""By the name that `optimizer.kind` has in a campaign file."""


def optimizer_kind(name: str) -> OptimizerKind:
    """The kind of that name.

    Raises:
        ConfigError: E108, there is none.
    """
    if name not in KINDS:
        wrong = f"must be one of {', '.join(KINDS)}"
        raise ConfigError(Problem("E108", wrong, f"found {name!r}", field="optimizer.kind"))
    return KINDS[name]


def optimizer_settings(kind: str, options: Mapping[str, Option]) -> Any:
    """The settings of a kind, of the class that its table entry names.

    Raises:
        ConfigError: E108 for an unknown kind; E104 and E108 as `read_settings`.
    """
    return read_settings(kind, optimizer_kind(kind).settings, options)


def make_optimizer(
    kind: str,
    genes: Sequence[Gene],
    objectives: Sequence[Objective],
    *,
    population: int,
    seed: int,
    initial: Sequence[Genome] = (),
    settings: Any = None,
    schedule: Schedule = "generational",
) -> Optimizer:
    """An optimizer of a kind.

    Args:
        kind: which one.
        genes: what is searched, in genome order.
        objectives: their number is the number of values told.
        population: candidates per generation. The first is larger if `initial` holds more.
        seed: decides every random number.
        initial: genomes to ask first, for example experts and averages; put on the grid.
        settings: of that kind's class; its defaults if None.
        schedule: whether it asks for generations or for one candidate at a time.

    Raises:
        ConfigError: E108 for an unknown kind.
        TypeError: if the settings are those of another kind.
    """
    found = optimizer_kind(kind)
    chosen = found.settings() if settings is None else settings
    if not isinstance(chosen, found.settings):
        raise TypeError(f"{kind} takes {found.settings.__name__}, not {type(chosen).__name__}")
    return found.make(genes, objectives, population, seed, initial, chosen, schedule)
