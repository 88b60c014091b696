"""Optuna's samplers by Optuna's own ask and tell: TPE, Gaussian processes, NSGA-III.

Akiba et al. (2019), "Optuna", arXiv:1907.10902. Every candidate is a trial of a study in memory, which is
made of what was told, in order, and of what is pending. The sampler is seeded anew for each ask and keeps
nothing, so that a replay, which takes from the ledger what was asked, need not sample. A failed candidate is
a failed trial; a raced one too, since it has no values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

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


class _Trials:
    """Genomes as trials."""

    def __init__(self, genes: Sequence[Gene]) -> None:
        self._genes = tuple(genes)
        self.forms: Any = distributions(genes)

    def genome(self, trial: optuna.trial.Trial) -> Genome:
        """What a trial asks for, on the grid."""
        asked = trial.params  # all of them are copied each time
        return tuple(gene.snap(asked[gene.name]) for gene in self._genes)

    def pending(self, genome: Genome) -> FrozenTrial:
        """A trial that waits for its outcome."""
        return create_trial(
            state=TrialState.RUNNING, params=self._named(genome), distributions=self.forms
        )

    def told(
        self, genome: Genome, outcome: Outcome, notes: dict[str, Any] | None = None
    ) -> FrozenTrial:
        """A trial with its outcome; `notes` of the sampler."""
        complete = isinstance(outcome, Complete)
        violations = outcome.violations if isinstance(outcome, Complete) else ()
        constraints = {f"bound {index}": violation for index, violation in enumerate(violations)}
        return create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            values=list(outcome.values) if isinstance(outcome, Complete) else None,
            params=self._named(genome),
            distributions=self.forms,
            system_attrs=notes,
            constraints=constraints or None,
        )

    def _named(self, genome: Genome) -> dict[str, float]:
        return {gene.name: value for gene, value in zip(self._genes, genome, strict=True)}


class OptunaSampler:
    """A proposing function (see `proposals`); what it keeps between calls only saves time."""

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        seed: int,
        population: int,
        settings: OptunaSettings,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._settings, self._seed, self._population = settings, seed, max(population, 2)
        self._directions = [StudyDirection.MINIMIZE] * objectives
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trials = _Trials(genes)
            self._storage = InMemoryStorage()
            self._study = optuna.create_study(storage=self._storage, directions=self._directions)
            self._generation = self._generation_name() if settings.sampler == "nsga3" else ""
        self._size = self._seen = self._complete = self._generations = 0
        self._once = _SeededOnce(genes, objectives, seed, population, settings)

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if asked.asks_again and self._settings.seeded == "once":
                return self._once(asked)
            for genome, outcome in asked.told[self._seen :]:
                self._tell(genome, outcome)
            self._seen = len(asked.told)
            self._select_parents()
            seed = int(asked.rng.integers(2**31))
            self._study.sampler = sampler(self._settings, seed, self._population)
            return np.array(self._sample(asked.pending, asked.count))

    def _sample(self, pending: Sequence[Genome], count: int) -> list[Genome]:
        """So many points, each knowing those before. What is pending is so for this call alone.

        No trial can be taken out of a study: it ends as a failed one, at which no sampler looks. What was
        sampled does so too, and stands beside itself as the grid and the ledger have it.
        """
        open_ = dict.fromkeys(pending)
        numbers = [self._add(self._trials.pending(genome)) for genome in open_]
        found = []
        for _ in range(count):
            trial = self._study.ask(self._trials.forms)
            self._size += 1
            self._study.tell(trial, state=TrialState.FAIL)
            found.append(self._trials.genome(trial))
            if found[-1] not in open_:
                open_[found[-1]] = None
                numbers.append(self._add(self._trials.pending(found[-1])))
        for number in numbers:
            self._study.tell(number, state=TrialState.FAIL)
        return found

    def _add(self, trial: FrozenTrial) -> int:
        """Its number."""
        self._study.add_trial(trial)
        self._size += 1
        return self._size - 1

    def _tell(self, genome: Genome, outcome: Outcome) -> None:
        notes = {}
        if isinstance(outcome, Complete):
            # As many trials with values as there are in a population are a generation, in the order told.
            if self._generation:
                notes[self._generation] = self._complete // self._population
            self._complete += 1
        self._add(self._trials.told(genome, outcome, notes))

    def _select_parents(self) -> None:
        """NSGA-III's parents of each generation that is whole, by chance of its own: once for all asks."""
        while self._generation and (self._generations + 1) * self._population <= self._complete:
            self._generations += 1
            # Another view of the study, since one keeps the trials of its last ask.
            study = optuna.load_study(study_name=self._study.study_name, storage=self._storage)
            drawn = np.random.default_rng((self._seed, 1, self._generations))
            selecting: Any = sampler(self._settings, int(drawn.integers(2**31)), self._population)
            selecting.get_parent_population(study, self._generations)

    def _generation_name(self) -> str:
        """Under what name NSGA-III notes a trial's generation: the only note that it makes of a first one."""
        study = optuna.create_study(directions=self._directions)
        study.ask()
        numbering: Any = sampler(self._settings, 0, self._population)
        numbering.get_trial_generation(study, study.trials[0])
        (name,) = study.trials[0].system_attrs
        return str(name)


class _SeededOnce:
    """As `OptunaSampler` before December 2026: one sampler, whose state is made by its asks.

    Stages are asked again in a replay, and those of ledgers from then must ask as they did.
    """

    def __init__(
        self,
        genes: Sequence[Gene],
        objectives: int,
        seed: int,
        population: int,
        settings: OptunaSettings,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trials = _Trials(genes)
            self._study = optuna.create_study(
                directions=["minimize"] * objectives, sampler=sampler(settings, seed, population)
            )
        self._seen = 0
        self._open: dict[Genome, optuna.trial.Trial] = {}

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        for genome, outcome in asked.told[self._seen :]:
            self._tell(genome, outcome)
        self._seen = len(asked.told)
        waiting = set(asked.pending)
        for genome in [genome for genome in self._open if genome not in waiting]:
            # Known already when it was proposed, so that nobody evaluates it.
            self._study.tell(self._open.pop(genome), state=TrialState.FAIL)
        return np.array([self._ask() for _ in range(asked.count)])

    def _ask(self) -> Genome:
        trial = self._study.ask(self._trials.forms)
        genome = self._trials.genome(trial)
        if genome in self._open:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._open[genome] = trial
        return genome

    def _tell(self, genome: Genome, outcome: Outcome) -> None:
        trial = self._open.pop(genome, None)
        if trial is None:
            self._study.add_trial(self._trials.told(genome, outcome))
        elif isinstance(outcome, Complete):
            for index, violation in enumerate(outcome.violations):
                trial.set_constraint(f"bound {index}", violation)
            self._study.tell(trial, list(outcome.values))
        else:
            self._study.tell(trial, state=TrialState.FAIL)
