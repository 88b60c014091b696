"""Optimizers: ask for candidates, be told their outcomes, nothing more.

An optimizer asks for one batch that is told together (a generation) and is a pure function of its seed
and of what it was told: the same outcomes give bit-identical asks in any process, so that a campaign
resumes by telling again what its ledger holds. `evomerge.testing.optimizers` checks what every
implementation must do; each one lives in a file that alone knows its library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from evomerge.errors import ConfigError, Problem
from evomerge.objective import Objective, Outcome
from evomerge.search_space import Gene, Genome

Option = str | float | bool

KINDS: Mapping[str, str] = {
    "nsga2": "NSGA-II with a structured start and operators that know experts and layers",
    "random": "random search on the grid, the baseline",
}
"""Kind to one line about it."""


class Optimizer(Protocol):
    """What the driver needs of an optimizer; calls alternate, `ask` first."""

    def ask(self) -> list[Genome]:
        """The next batch: genomes on the grid, none of which was asked before.

        Empty only if every genome of the grid was asked.

        Raises:
            RuntimeError: if the last batch was not told yet.
        """
        ...

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the last batch, in its order.

        Raises:
            RuntimeError: if nothing was asked, or the number of outcomes is another.
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
) -> Optimizer:
    """An optimizer of a kind in `KINDS`; loads its library only now.

    Args:
        kind: which one.
        genes: what is searched, in genome order.
        objectives: their number is the number of values told.
        population: candidates per batch. The first batch is larger if `initial` holds more.
        seed: decides every random number.
        initial: genomes to ask first, for example experts and averages; put on the grid.
        options: settings of that kind.

    Raises:
        ConfigError: E104 for an unknown kind or option, E108 for an option of the wrong value.
    """
    chosen = dict(options or {})
    if kind == "nsga2":
        from evomerge.optimizers.nsga2 import Nsga2

        return Nsga2(genes, len(objectives), population, seed, initial, chosen)
    if kind == "random":
        from evomerge.optimizers.random_search import RandomSearch

        return RandomSearch(genes, len(objectives), population, seed, initial, chosen)
    todo = f"kinds: {', '.join(KINDS)}"
    raise ConfigError(Problem("E104", f"unknown optimizer `{kind}`", "", todo, field="optimizer.kind"))
