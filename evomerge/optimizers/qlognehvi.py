"""qLogNEHVI: batches by logarithmic noisy expected hypervolume improvement, by BoTorch.

Daulton, Balandat and Bakshy (2021), arXiv:2105.08195; Ament et al. (2023), arXiv:2310.20708. One Gaussian
process per objective and bound, points found by gradients from restarts, one after the other, given what is
pending. Slow above four objectives or some hundred genes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.sampling import manual_seed
from gpytorch.mlls import SumMarginalLogLikelihood

from evomerge.objectives.origin import MODEL, START
from evomerge.objectives.pareto import REFERENCE
from evomerge.optimizers import structured
from evomerge.optimizers.descent import Descent, of
from evomerge.optimizers.gaussian import one_thread
from evomerge.optimizers.grid import Grid, as_rows
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.settings import QLogNehviSettings
from evomerge.optimizers.told import Told, learned
from evomerge.search_space import Gene, Genome

LEAST = 4

# BoTorch would compile a kernel for this very machine (`-march=native`) when first used: asks would depend on
# whether there is a compiler, and a process killed meanwhile leaves a lock that the next waits on for ever.
logei._load_attempted = True


class QLogNehvi:
    """A proposing function (see `proposals`); it keeps nothing that it reads again."""

    def __init__(self, genes: Sequence[Gene], initial: Sequence[Genome]) -> None:
        self._grid = Grid(genes)
        self._initial = frozenset(map(tuple, self._grid.snap(as_rows(initial, len(genes))).tolist()))
        self.descents: Sequence[Descent | None] = ()

    def __call__(self, asked: Asked) -> np.ndarray:
        """Points, float64 [count, genes]."""
        settings: QLogNehviSettings = asked.settings
        known = learned(asked.told, self._initial, len(self._grid), asks_again=asked.asks_again)
        tried = len(asked.told) + len(asked.pending)
        if tried < settings.start or known is None or len(known.genomes) < LEAST:
            given = as_rows(sorted(self._initial), len(self._grid))
            self.descents = [of(START)] * asked.count
            return structured.start_points(self._grid, given, asked.count, asked.rng)
        self.descents = [of(MODEL)] * asked.count
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with manual_seed(int(asked.rng.integers(2**31))):
                    return self._acquire(asked, known, settings)
            finally:
                torch.set_num_threads(threads)

    def _acquire(self, asked: Asked, known: Told, settings: QLogNehviSettings) -> np.ndarray:
        low, span = self._grid.low, self._grid.high - self._grid.low
        points = torch.from_numpy((known.genomes - low) / span)
        bounds = known.bounds
        columns = [*(-known.values.T), *bounds.values()]
        model = ModelListGP(*(SingleTaskGP(points, torch.tensor(c)[:, None]) for c in columns))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        pending = torch.from_numpy((as_rows(asked.pending, len(low)) - low) / span)
        objectives = known.values.shape[1]

        def bound(index: int) -> Any:
            return lambda samples: samples[..., index]

        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=[-REFERENCE] * objectives,
            X_baseline=points,
            sampler=SobolQMCNormalSampler(
                torch.Size([settings.samples]), seed=int(asked.rng.integers(2**31))
            ),
            objective=IdentityMCMultiOutputObjective(outcomes=list(range(objectives))),
            constraints=[bound(objectives + k) for k in range(len(bounds))] or None,
            prune_baseline=True,
            X_pending=pending if len(pending) else None,
        )
        found, _ = optimize_acqf(
            acquisition,
            bounds=torch.stack([torch.zeros(len(low)), torch.ones(len(low))]).double(),
            q=asked.count,
            num_restarts=settings.restarts,
            raw_samples=16 * settings.restarts,
            options={"maxiter": settings.iterations, "batch_limit": settings.restarts},
            sequential=True,
        )
        genomes: np.ndarray = low + found.detach().numpy() * span
        return genomes
