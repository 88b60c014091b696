"""A stage of a search as data: which part of a genome it searches, and how. `stages` carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evomerge.errors import ConfigError, Problem
from evomerge.search_space import Gene

Searched = Literal["merge", "path", "both"]


@dataclass(frozen=True)
class Stage:
    """What a stage searches, how, and how many evaluations it has; None for all that are left."""

    searches: Searched
    kind: str
    settings: Any = None
    evaluations: int | None = None


def refuse_stages(stages: Sequence[Stage], genes: Sequence[Gene]) -> None:
    """Refuse a stage that has nothing to search.

    Raises:
        ConfigError: E121.
    """
    there = {"path" if gene.paths is not None else "merge" for gene in genes}
    for index, stage in enumerate(stages):
        if stage.searches != "both" and stage.searches not in there:
            wrong = f"a stage of {stage.searches} has no free gene"
            raise ConfigError(Problem("E121", wrong, field=f"stages.{index}"))


LEARNING = ("learned-front", "auto")
"""Kinds that learn from slopes, which begin at the experts and not at a front: of a first stage alone."""


def stage_kind(searches: Searched, kind: str | None, *, first: bool) -> str:
    """The kind that a stage has: what it says, else a surrogate for merges and NSGA-II for paths.

    `auto` is itself in a `first` stage of merges, and else as if nothing was said.
    """
    if kind is not None and (kind != "auto" or (first and searches == "merge")):
        return kind
    return "surrogate" if searches == "merge" else "nsga2"


def without_learning(stage: Stage) -> Stage:
    """As ledgers from before stages could learn have it: there `auto` was a surrogate."""
    return replace(stage, kind="surrogate", settings=None) if stage.kind == "auto" else stage
