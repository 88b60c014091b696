"""Built-in optimizers: what each is called, the class of its settings, and how one is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.errors import ConfigError, Problem
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
    OptunaSettings,
    QLogNehviSettings,
    RandomSettings,
    SurrogateSettings,
)
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
    from evomerge.optimizers.surrogate import Surrogate, has_scales_by_gene

    parts = (plan.genes, plan.initial, plan.seed, plan.focus)
    by_gene = has_scales_by_gene(plan.settings.scales, len(plan.genes), len(plan.objectives))
    return plan.computing(Surrogate(*parts, steady=plan.steady, by_gene=by_gene))


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
