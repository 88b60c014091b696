"""The kinds of optimizers there are: what each is called, its settings, and how one is made.

A person's own is registered by the decorator `optimizer`, or found under the entry point group
`evomerge.optimizers`, whose modules use that decorator. Optimizers live in the driver's process, so that a
function of a notebook or of `python -c` serves as well as one of a package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from importlib import metadata
from typing import Any

from evomerge.errors import ConfigError, Problem, UsageError
from evomerge.objectives.objective import Objective
from evomerge.optimizers.learned_front import LearnedFront
from evomerge.optimizers.m2n2 import M2n2
from evomerge.optimizers.optimizer import Optimizer, Schedule
from evomerge.optimizers.proposals import Adopted, Proposals, Propose
from evomerge.optimizers.random_search import RandomSearch
from evomerge.optimizers.settings import (
    AutoSettings,
    CmaEsSettings,
    Hm3Settings,
    KinshipSettings,
    LearnedFrontSettings,
    M2n2Settings,
    MmmoSettings,
    NoSettings,
    Nsga2Settings,
    Option,
    OptunaSettings,
    QLogNehviSettings,
    RandomSettings,
    SurrogateSettings,
    read_settings,
)
from evomerge.recipe.functions import load_installed
from evomerge.search_space import Gene, Genome


@dataclass(frozen=True)
class Blueprint:
    """What an optimizer is made from; fields as the arguments of `make_optimizer`, `settings` of its kind."""

    genes: Sequence[Gene]
    objectives: Sequence[Objective]
    population: int
    seed: int
    initial: Sequence[Genome]
    settings: Any
    schedule: Schedule
    focus: tuple[float, ...] | None = None
    known: Sequence[Genome] = ()

    @property
    def first(self) -> list[Genome]:
        """What is asked before anything else."""
        return [*self.initial, *self.known]

    @property
    def steady(self) -> bool:
        """Whether one candidate is asked at a time."""
        return self.schedule == "steady_state"

    def proposing(self, propose: Propose) -> Optimizer:
        """The optimizer whose points a function proposes."""
        parts = (self.genes, self.objectives, self.population, self.seed, self.first, self.settings)
        return Proposals(propose, *parts, steady=self.steady)

    def computing(self, propose: Propose) -> Optimizer:
        """The same of a function of ours, whose asks a replay takes from the record."""
        parts = (self.genes, self.objectives, self.population, self.seed, self.first, self.settings)
        return Adopted(propose, *parts, steady=self.steady)


Maker = Callable[[Blueprint], Optimizer]
"""Makes an optimizer that was asked nothing yet; loads its library only then."""


@dataclass(frozen=True)
class OptimizerKind:
    """A kind of optimizer.

    Attributes:
        about: one line about it.
        settings: the dataclass of its settings.
        make: makes one.
        focuses: whether it can spend its budget near a preference.
        wants_items: whether it looks at the score of every item.
        goes_by_bounds: whether constraints, and a region for a focus, steer what it asks for.
    """

    about: str
    settings: type
    make: Maker
    focuses: bool = False
    wants_items: bool = False
    goes_by_bounds: bool = True


def _nsga2(plan: Blueprint) -> Optimizer:
    parts = (plan.genes, len(plan.objectives), plan.population, plan.seed, plan.first, plan.settings)
    if plan.steady:
        from evomerge.optimizers.steady_nsga2 import SteadyNsga2

        return SteadyNsga2(*parts)
    from evomerge.optimizers.nsga2 import Nsga2

    return Nsga2(*parts)


def _random(plan: Blueprint) -> Optimizer:
    parts = (plan.genes, len(plan.objectives), plan.population, plan.seed, plan.first, plan.settings)
    return RandomSearch(*parts, steady=plan.steady)


def _random_global(plan: Blueprint) -> Optimizer:
    return _random(replace(plan, settings=RandomSettings("global")))


def _surrogate(plan: Blueprint) -> Optimizer:
    from evomerge.optimizers.surrogate import Surrogate

    parts = (plan.genes, plan.initial, plan.seed, plan.focus)
    return plan.computing(Surrogate(*parts, steady=plan.steady))


def _cma_es(plan: Blueprint) -> Optimizer:
    from evomerge.optimizers.cma_es import CmaEs

    propose = CmaEs(plan.genes, len(plan.objectives), plan.seed, plan.initial, plan.settings)
    return plan.computing(propose)


def _hm3(plan: Blueprint) -> Optimizer:
    from evomerge.optimizers.hm3 import Hm3

    parts = (plan.genes, len(plan.objectives), plan.seed, plan.initial, plan.settings)
    return plan.proposing(Hm3(*parts, focus=plan.focus))


def _optuna(plan: Blueprint) -> Optimizer:
    from evomerge.optimizers.optuna_samplers import OptunaSampler

    parts = (plan.genes, len(plan.objectives), plan.seed, plan.population, plan.settings)
    return plan.computing(OptunaSampler(*parts))


def _mmmo(plan: Blueprint) -> Optimizer:
    from evomerge.optimizers.mmmo import Mmmo

    return plan.computing(Mmmo(plan.genes, plan.initial, plan.settings.acquisition))


def _m2n2(plan: Blueprint) -> Optimizer:
    return plan.computing(M2n2(plan.genes))


def _kinship(plan: Blueprint) -> Optimizer:
    from evomerge.optimizers.kinship import KinshipMerging

    return plan.computing(KinshipMerging(plan.genes, plan.initial))


def _qlognehvi(plan: Blueprint) -> Optimizer:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what BoTorch imports uses what torch has deprecated
            from evomerge.optimizers.qlognehvi import QLogNehvi
    except ModuleNotFoundError as error:
        todo = "pip install 'evomerge[botorch]'"
        problem = Problem("E123", "`qlognehvi` needs botorch", str(error), todo, field="optimizer.kind")
        raise ConfigError(problem) from error
    return plan.computing(QLogNehvi(plan.genes, plan.initial))


def _learned_front(plan: Blueprint) -> Optimizer:
    parts = (plan.genes, plan.objectives, plan.population, plan.seed, plan.initial, plan.settings)
    return LearnedFront(*parts, steady=plan.steady, focus=plan.focus, known=plan.known)


def _auto(plan: Blueprint) -> Optimizer:
    if any(gene.paths is not None for gene in plan.genes):
        # Gradients and Gaussian processes say nothing about paths of layers.
        return _nsga2(replace(plan, settings=Nsga2Settings()))
    from evomerge.optimizers.auto import Auto

    parts = (plan.genes, plan.objectives, plan.population, plan.seed, plan.initial, plan.settings)
    return Auto(*parts, steady=plan.steady, focus=plan.focus, known=plan.known)


KINDS: dict[str, OptimizerKind] = {
    "nsga2": OptimizerKind(
        "NSGA-II with a structured start and operators that know experts, layers and paths of them",
        Nsga2Settings,
        _nsga2,
    ),
    "surrogate": OptimizerKind(
        "NSGA-II on Gaussian processes of the objectives; evaluates what adds most hypervolume",
        SurrogateSettings,
        _surrogate,
        focuses=True,
    ),
    "learned-front": OptimizerKind(
        "one map from preference to merge, fitted by gradients of the coefficients on search items; with "
        "`loss: entropy` AdaMerging's, without their labels",
        LearnedFrontSettings,
        _learned_front,
        focuses=True,
        goes_by_bounds=False,
    ),
    "auto": OptimizerKind(
        "a learned front where gradients can be had, then a surrogate around it; else the surrogate alone; "
        "on paths of layers NSGA-II",
        AutoSettings,
        _auto,
        focuses=True,
    ),
    "cma-es": OptimizerKind(
        "CMA-ES on weighted sums from the uniform average, as mergekit-evolve", CmaEsSettings, _cma_es
    ),
    "hm3": OptimizerKind(
        "HM3: a policy for all preferences walks paths of layers, learnt by PPO",
        Hm3Settings,
        _hm3,
        focuses=True,
    ),
    "qlognehvi": OptimizerKind(
        "BoTorch's noisy expected hypervolume improvement (extra `botorch`)",
        QLogNehviSettings,
        _qlognehvi,
    ),
    "mmmo": OptimizerKind(
        "MM-MO: expected hypervolume, weak to strong, Fisher information, sparsity", MmmoSettings, _mmmo
    ),
    "m2n2": OptimizerKind(
        "M2N2: models compete for items, complementary ones mate, the split point evolves",
        M2n2Settings,
        _m2n2,
        wants_items=True,
    ),
    "kinship": OptimizerKind(
        "top-k greedy merging, exploring where merges are least akin", KinshipSettings, _kinship
    ),
    "optuna": OptimizerKind(
        "Optuna's samplers: TPE, Gaussian processes, NSGA-III", OptunaSettings, _optuna
    ),
    "random": OptimizerKind(
        "random search on the grid, the baseline", RandomSettings, _random, goes_by_bounds=False
    ),
    "random-global": OptimizerKind(
        "random search with one value per expert, the baseline to beat",
        NoSettings,
        _random_global,
        goes_by_bounds=False,
    ),
}
"""Built-in kinds, by the name that `optimizer.kind` has in a campaign file."""

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
        settings: a frozen dataclass of its options; see `optimizers.settings` for its fields.
        about: one line for `evomerge list optimizers`; the first of the docstring if empty.

    Raises:
        UsageError: E512, for the name of a built-in kind, and for settings that are no dataclass.
    """
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
