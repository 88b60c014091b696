"""Optimizers: ask for candidates, be told their outcomes, nothing more.

In come genes, objectives and outcomes; out come genomes on the grid. An optimizer is a pure function of
its seed and of what it was asked and told, so that a campaign resumes by repeating what its ledger
holds; each lives in a file that alone knows its library.

Read `optimizer` (the seam), `settings` and `kinds` (what each is called and takes), `grid` (genomes, and
which were asked), `nsga2` and `steady_nsga2` with what they share (`genetic`, `variation`, `structured`),
`random_search`, `proposals` (an optimizer of one function) with what a model learns from (`told`) and how a
batch is chosen (`improvement`), `surrogate` with its models (`gaussian`),
`refiner`, `mmmo`, `qlognehvi`, `cma_es`,
`optuna_samplers` and a campaign's `study`, `schedule` (who is asked and told when), `seeders` and `baselines`
(where a search starts, and what it must beat).
"""

from evomerge.optimizers.kinds import KINDS, make_optimizer, optimizer_settings
from evomerge.optimizers.optimizer import Optimizer, Schedule
from evomerge.optimizers.settings import Nsga2Settings, RandomSettings

__all__ = [
    "KINDS",
    "Nsga2Settings",
    "Optimizer",
    "RandomSettings",
    "Schedule",
    "make_optimizer",
    "optimizer_settings",
]
