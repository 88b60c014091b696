"""Kinds of optimizers, built-in and of others: found by name, given settings, made.

A person's own is registered by the decorator `optimizer`, or found under the entry point group
`evomerge.optimizers`, whose modules use that decorator. Optimizers live in the driver's process, so that a
function of a notebook or of `python -c` serves as well as one of a package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import metadata
from typing import Any

from evomerge.errors import ConfigError, Problem, UsageError
from evomerge.objectives.objective import Objective
from evomerge.optimizers.builtin import KINDS, Blueprint, OptimizerKind
from evomerge.optimizers.optimizer import Optimizer, Schedule
from evomerge.optimizers.options import Option, read_settings
from evomerge.optimizers.proposals import Propose
from evomerge.optimizers.settings import Hm3Settings, NoSettings
from evomerge.recipe.functions import load_installed, refuse_no_name
from evomerge.search_space import Gene, Genome

GROUP = "evomerge.optimizers"
"""Entry points of modules that register optimizers; the name of one is that of its optimizer."""

_REGISTERED: dict[str, OptimizerKind] = {}


def optimizer(
    name: str, *, settings: type = NoSettings, about: str = ""
) -> Callable[[Propose], Propose]:
    """Register a function that proposes points as an optimizer, for this process.

    The function is given an `Asked` and gives rows of gene values; see `optimizers.proposals`. Registered
    again, as when the cell of a notebook runs again, it takes the place of the one before.

    Args:
        name: what `optimizer.kind` calls it.
        settings: a frozen dataclass of its options; see `optimizers.options` for its fields.
        about: one line for `evomerge list optimizers`; the first of the docstring if empty.

    Raises:
        UsageError: E512, for the name of a built-in kind, and for settings that are no dataclass.
    """
    refuse_no_name("optimizer", name)
    if name in KINDS:
        problem = Problem("E512", f"`{name}` is a built-in optimizer", "", "choose another name")
        raise UsageError(problem)
    if not is_dataclass(settings):
        found = f"found {settings!r}"
        raise UsageError(Problem("E512", f"settings of `{name}` must be a dataclass", found))

    def register(propose: Propose) -> Propose:
        def make(plan: Blueprint) -> Optimizer:
            return plan.proposing(propose)

        line = about or (propose.__doc__ or "").strip().partition("\n")[0]
        wants = bool(getattr(propose, "wants_items", False))
        _REGISTERED[name] = OptimizerKind(line, settings, make, wants_items=wants)
        return propose

    return register


def known_kinds() -> dict[str, str]:
    """Name to one line about it: built-in kinds, registered ones and installed ones."""
    found = {name: kind.about for name, kind in (KINDS | _REGISTERED).items()}
    return {entry.name: f"from {entry.value}" for entry in metadata.entry_points(group=GROUP)} | found


def optimizer_kind(name: str) -> OptimizerKind:
    """The kind of that name: built-in, registered, or installed.

    Raises:
        ConfigError: E108, there is none; E123, its package cannot be imported or does not register it.
    """
    if name not in KINDS and name not in _REGISTERED:
        _load_installed(name)
    known = KINDS | _REGISTERED
    if name not in known:
        wrong = f"must be one of {', '.join(known_kinds())}"
        raise ConfigError(Problem("E108", wrong, f"found {name!r}", field="optimizer.kind"))
    return known[name]


def _load_installed(name: str) -> None:
    todo = f'decorate it with `@evomerge.optimizer("{name}")`'
    load_installed(GROUP, name, _REGISTERED, "optimizer", todo, "optimizer.kind")


def optimizer_settings(kind: str, options: Mapping[str, Option]) -> Any:
    """The settings of a kind, of the class that its table entry names.

    Raises:
        ConfigError: E108 and E123 for the kind; E104 and E108 as `read_settings`.
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
    focus: Sequence[float] | None = None,
    known: Sequence[Genome] = (),
) -> Optimizer:
    """An optimizer of a kind.

    Args:
        kind: which one.
        genes: what is searched, in genome order.
        objectives: their number is the number of values told.
        population: candidates per generation. The first is larger if `initial` and `known` hold more.
        seed: decides every random number.
        initial: genomes to ask first, for example experts and averages; put on the grid.
        settings: of that kind's class; its defaults if None.
        schedule: whether it asks for generations or for one candidate at a time.
        focus: weights of the objectives, summing to 1, near which the budget is spent; everywhere if None.
        known: genomes to ask after those, which tell of the objectives and are no start.

    Raises:
        ConfigError: E108 for an unknown kind; E123 for one whose library is not installed; E151 for a focus
            that it cannot have; E119 for `hm3` without paths of layers, or without scales for its network.
        TypeError: if the settings are those of another kind.
    """
    found = optimizer_kind(kind)
    chosen = found.settings() if settings is None else settings
    if not isinstance(chosen, found.settings):
        raise TypeError(f"{kind} takes {found.settings.__name__}, not {type(chosen).__name__}")
    refuse_focus(kind, focus is not None)
    refuse_paths(kind, genes, focus is not None, chosen)
    towards = None if focus is None else tuple(focus)
    return found.make(
        Blueprint(genes, objectives, population, seed, initial, chosen, schedule, towards, known)
    )


def refuse_paths(kind: str, genes: Sequence[Gene], focused: bool, settings: Any = None) -> None:
    """Refuse what a kind cannot do with paths of layers, or without.

    Raises:
        ConfigError: E119 for `hm3` where no path can be walked, and for its scaling network where paths have
            no scales; E151 for a focus of `auto` on paths.
    """
    paths = next((gene.paths for gene in genes if gene.paths is not None), None)
    if kind == "hm3" and (paths is None or paths.form != "steps"):
        todo = "give the search space a `layer_path` with `form: steps`"
        raise ConfigError(
            Problem("E119", "hm3 walks paths of layers", "", todo, field="optimizer.kind")
        )
    aligned = isinstance(settings, Hm3Settings) and settings.alignment == "network"
    if aligned and paths is not None and paths.scale is None:
        wrong, todo = "a scaling network needs paths with scales", "give `layer_path` a `scale`"
        raise ConfigError(Problem("E119", wrong, "", todo, field="optimizer.options.alignment"))
    if kind == "auto" and paths is not None and focused:
        wrong = "`auto` cannot focus on paths of layers"
        raise ConfigError(Problem("E151", wrong, "", "take hm3", field="optimizer.focus"))


def refuse_focus(kind: str, wanted: bool) -> None:
    """Refuse a focus of a kind that has none.

    Raises:
        ConfigError: E108 for an unknown kind; E151.
    """
    if wanted and not optimizer_kind(kind).focuses:
        able = ", ".join(name for name, each in KINDS.items() if each.focuses)
        todo = f"take {able}, or leave it out and `evomerge refine` afterwards"
        raise ConfigError(Problem("E151", f"`{kind}` cannot focus", "", todo, field="optimizer.focus"))


def refuse_region(kind: str) -> None:
    """Refuse a region for a focus of a kind that goes by no bounds; raises as `refuse_focus`."""
    if not optimizer_kind(kind).goes_by_bounds:
        able = ", ".join(name for name, each in KINDS.items() if each.goes_by_bounds)
        wrong, todo = f"`{kind}` goes by no bounds, and so by no region", f"take {able}"
        raise ConfigError(Problem("E151", wrong, "", todo, field="optimizer.focus"))
