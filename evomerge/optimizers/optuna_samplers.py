"""Optuna's samplers by Optuna's own ask and tell: TPE, Gaussian processes, NSGA-III.

Akiba et al. (2019), "Optuna", arXiv:1907.10902. Every candidate is a trial of a study in memory: asked of
the sampler, or added where something else asked it. A failed candidate is a failed trial; a raced one too,
since it has no values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, TPESampler
from optuna.trial import TrialState, create_trial

from evomerge.objectives.objective import Complete, Outcome
from evomerge.optimizers.gaussian import one_thread
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import OptunaSettings
from evomerge.search_space import Gene, Genome


def sampler(settings: OptunaSettings, seed: int, population: int) -> BaseSampler:
    """The sampler of a kind; `gp` needs torch."""
    if settings.sampler == "tpe":
        return TPESampler(seed=seed, multivariate=settings.multivariate)
    if settings.sampler == "nsga3":
        return NSGAIIISampler(seed=seed, population_size=max(population, 2))
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, deterministic_objective=False)


def distributions(genes: Sequence[Gene]) -> dict[str, FloatDistribution]:
    """Each gene's bounds and grid under its name."""
    found = {}
    for gene in genes:
        steps = np.floor((gene.high - gene.low) / gene.step + 1e-9)
        high = float(gene.snap(gene.low + steps * gene.step))
        found[gene.name] = FloatDistribution(gene.low, high, step=gene.step)
    return found


class OptunaSampler:
    """A proposing function (see `proposals`) whose study is made of what was asked and told, in order."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        seed: int,
        population: int,
        settings: OptunaSettings,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._genes = tuple(genes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._distributions: Any = distributions(genes)
            self._study = optuna.create_study(
                directions=["minimize"] * objectives, sampler=sampler(settings, seed, population)
            )
        self._seen = 0
        self._open: dict[Genome, optuna.trial.Trial] = {}

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for genome, outcome in asked.told[self._seen :]:
                self._tell(genome, outcome)
            self._seen = len(asked.told)
            waiting = set(asked.pending)
            for genome in [genome for genome in self._open if genome not in waiting]:
                # Known already when it was proposed, so that nobody evaluates it.
                self._study.tell(self._open.pop(genome), state=TrialState.FAIL)
            return np.array([self._ask() for _ in range(asked.count)])

    def _ask(self) -> Genome:
        trial = self._study.ask(self._distributions)
        genome = tuple(gene.snap(trial.params[gene.name]) for gene in self._genes)
        if genome in self._open:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._open[genome] = trial
        return genome

    def _tell(self, genome: Genome, outcome: Outcome) -> None:
        complete = isinstance(outcome, Complete)
        violations = outcome.violations if isinstance(outcome, Complete) else ()
        values = list(outcome.values) if isinstance(outcome, Complete) else None
        trial = self._open.pop(genome, None)
        if trial is not None:
            for index, violation in enumerate(violations):
                trial.set_constraint(f"bound {index}", violation)
            if complete:
                self._study.tell(trial, values)
            else:
                self._study.tell(trial, state=TrialState.FAIL)
            return
        state = TrialState.COMPLETE if complete else TrialState.FAIL
        params = {gene.name: value for gene, value in zip(self._genes, genome, strict=True)}
        constraints = {f"bound {index}": violation for index, violation in enumerate(violations)}
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=params,
                distributions=self._distributions,
                constraints=constraints or None,
            )
        )
