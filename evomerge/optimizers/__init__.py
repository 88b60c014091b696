"""Optimizers: ask for candidates, be told their outcomes, nothing more.

In come genes, objectives and outcomes; out come genomes on the grid. An optimizer is a pure function of
its seed and of what it was asked and told, so that a campaign resumes by repeating what its ledger
holds; each lives in a file that alone knows its library.

Read `optimizer` (the seam), `settings` and `options`, `builtin` and `kinds` (what each takes, is called, and
how one is found), `grid` (genomes, and which were asked), `descent` (what they were made of), `schedule` (who
is asked and told when), `seeders` and `baselines` (where a search starts, and what it must beat).

Then an optimizer. Evolution: `random_search`, `nsga2` and `steady_nsga2` with what they share (`genetic`,
`variation`, `structured`), `cma_es`, `m2n2`; `kinship` (greedy, without a model). Models of the objectives:
`proposals` (an optimizer of one function) with what a model learns from (`told`, `gaussian`) and how a
batch is chosen (`improvement`, `sequential`), `surrogate`, `qlognehvi`, `mmmo` with `distance` (of a merge
from the base), `optuna_samplers`. Gradients: `slopes` (what may be asked for), `front_map`, `lesson`
with its `allotment` of items, `learned_front`; `auto`, the default, goes from there to a surrogate. Paths of
layers: `path_operators`, `hm3` with its `path_policy`. One after another: `stage` and `stages`; a further
budget near a preference: `refiner`, `preferences`. `recorded_settings` are those of a campaign that has
begun; `study` shows a campaign to Optuna's dashboard.
"""

from evomerge.optimizers.builtin import KINDS
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
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
