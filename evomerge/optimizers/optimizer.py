"""Optimizers: ask for candidates, be told their outcomes, nothing more.

An optimizer is a pure function of its seed and of what it was asked and told, in order: the same calls
give bit-identical asks in any process, so that a campaign resumes by repeating what its ledger holds.
With the generational schedule it asks for one batch that is told together; with the steady-state
schedule each batch is one candidate, any number of which may be pending. `evomerge.testing.optimizers`
checks what every implementation must do; each one lives in a file that alone knows its library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from evomerge.errors import ConfigError, Problem
from evomerge.objectives.objective import Objective, Outcome
from evomerge.optimizers.random_search import RandomSearch
from evomerge.search_space import Gene, Genome

Option = str | float | bool
Schedule = Literal["generational", "steady_state"]

KINDS: Mapping[str, str] = {
    "nsga2": "NSGA-II with a structured start and operators that know experts and layers",
    "random": "random search on the grid, the baseline",
}
"""Kind to one line about it."""


class Optimizer(Protocol):
    """What a schedule needs of the optimizer; candidates are numbered from 0 over all asks."""

    def ask(self) -> list[Genome]:
        """The next batch: genomes on the grid, none of which was asked before.

        A whole generation, or one candidate in steady state. Empty only if every genome of the grid
        was asked.

        Raises:
            RuntimeError: if the last generation was not told yet.
        """
        ...

    def tell(self, outcomes: Sequence[Outcome], numbers: Sequence[int] | None = None) -> None:
        """The outcomes of the candidates with these numbers; of the last batch, in its order, if None.

        A generation is told whole; in steady state any pending candidates in order of arrival.

        Raises:
            RuntimeError: if a candidate is not pending, or the number of outcomes is another.
            ValueError: if a value is not finite, or their number does not fit the objectives; the
                optimizer is as it was before.
        """
        ...

    def state_digest(self) -> str:
        """SHA-256 (hex) over all that decides what comes next: members, values, random state."""
        ...


def make_optimizer(
    kind: str,
    genes: Sequence[Gene],
    objectives: Sequence[Objective],
    *,
    population: int,
    seed: int,
    initial: Sequence[Genome] = (),
    options: Mapping[str, Option] | None = None,
    schedule: Schedule = "generational",
) -> Optimizer:
    """An optimizer of a kind in `KINDS`; loads its library only now.

    Args:
        kind: which one.
        genes: what is searched, in genome order.
        objectives: their number is the number of values told.
        population: candidates per generation. The first is larger if `initial` holds more.
        seed: decides every random number.
        initial: genomes to ask first, for example experts and averages; put on the grid.
        options: settings of that kind.
        schedule: whether it asks for generations or for one candidate at a time.

    Raises:
        ConfigError: E104 for an unknown kind or option, E108 for an option of the wrong value.
    """
    chosen = dict(options or {})
    steady = schedule == "steady_state"
    if kind == "nsga2" and steady:
        from evomerge.optimizers.steady_nsga2 import SteadyNsga2

        return SteadyNsga2(genes, len(objectives), population, seed, initial, chosen)
    if kind == "nsga2":
        from evomerge.optimizers.nsga2 import Nsga2

        return Nsga2(genes, len(objectives), population, seed, initial, chosen)
    if kind == "random":
        return RandomSearch(genes, len(objectives), population, seed, initial, chosen, steady=steady)
    todo = f"kinds: {', '.join(KINDS)}"
    raise ConfigError(Problem("E104", f"unknown optimizer `{kind}`", "", todo, field="optimizer.kind"))
