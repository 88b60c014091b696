"""Jobs and what comes back: the plain data that crosses the seam between driver and workers.

Torch-free and picklable by the standard library alone, so that a driver needs no torch and a worker
no pymoo. A worker never raises across the seam: an exception class that the driver cannot rebuild
would hide the failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from evomerge.errors import EnvironmentFault, EvomergeError, Problem
from evomerge.evaluators.racing import Race
from evomerge.ledger.events import PreparedEvent
from evomerge.objectives.scores import Metric, Split
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.functions import Shipped
from evomerge.recipe.recipe import AS_BASE, ModelForm
from evomerge.recipe.registered import ShippedMethod
from evomerge.search_space import LayerPathSection

LOST = "lost"
"""The phase of `JobResult.seconds` that says how long a lost job had run."""

JobKind = Literal["prepare", "evaluate", "slope"]


@dataclass(frozen=True)
class SlopeWork:
    """Which losses a `slope` job computes, all by metric of an objective (for example `math.acc`).

    Attributes:
        weights: of the mean losses in the sum whose gradient is wanted; at least 0.
        items: numbers of the search items, ascending, each once.
        entropy: whether an item's loss is the entropy over its choices, without its label.
    """

    weights: Mapping[str, float]
    items: Mapping[str, tuple[int, ...]]
    entropy: bool = False


@dataclass(frozen=True, eq=False)
class MeasuredSlope:
    """What a `slope` job found.

    Attributes:
        losses: metric to mean loss; metrics without items are left out.
        gradient: float64 [experts, leaves], of the weighted sum of losses by each expert's weight at each
            leaf, experts in the order of the recipe's inputs, leaves in that of the prepared layout; zeros
            where an expert has no part; empty [0, 0] if all weights are 0.
    """

    losses: Mapping[str, float]
    gradient: np.ndarray


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker of a campaign is told once.

    Attributes:
        sources: `base` and the experts, name to folder.
        evaluators: evaluator files.
        methods: names of the merge methods the campaign may use.
        trims: scopes of magnitude trimming it may use, `tensor` or `model`.
        dtype: evaluation dtype; `storage` the dtype merges are rounded to.
        cache: folder for prepared statistics and compiled passes, shared by the workers of a node.
        allow_task_code: whether task files may run the Python they name.
        form: what all merges have in common beside their weights.
        experts: where they lie for another device than the CPU; `auto` takes the fastest that fits.
        kernels: whether merge passes are compiled; `auto` where it pays for the `candidates` expected.
        devices: over how many devices of its kind the live model is spread.
        functions: evaluators that the person registered in the driver's process.
        own_methods: merge methods likewise.
        by_tensor: whether the places of the layout are single weight matrices, and not modules of layers.
        by_row: whether their rows are told apart too; `rows` which, by place, where a ledger says it.
        layer_path: the paths of layers that are searched; None where all layers stay in their places.
        calibration: the text of methods that need statistics of the experts on inputs.
    """

    sources: Mapping[str, str]
    evaluators: tuple[str, ...]
    methods: tuple[str, ...]
    trims: tuple[str, ...]
    dtype: str
    storage: str
    device: str
    threads: int
    batch_size: int
    cache: str
    allow_task_code: bool = False
    form: ModelForm = AS_BASE
    experts: Literal["auto", "mapped", "pinned", "resident"] = "auto"
    kernels: Literal["auto", "plain", "compiled"] = "auto"
    candidates: int = 0
    devices: int = 1
    functions: tuple[Shipped, ...] = ()
    own_methods: tuple[ShippedMethod, ...] = ()
    by_tensor: bool = False
    by_row: bool = False
    rows: Mapping[str, int] | None = None
    layer_path: LayerPathSection | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Job:
    """One piece of work for a worker.

    Attributes:
        id: of the candidate, or of the job itself.
        kind: what is to be done.
        recipe: `Recipe.to_json()`. For a `slope` it is that of `SearchSpace.spelled_out`, because `decode`
            leaves out experts and numbers that have no effect at a genome and yet have a gradient there.
        split: whose items are scored.
        deadline: seconds after which the worker is killed; None for none.
        race: the references that may beat the candidate, so that it is given up; None to score it whole.
        slope: which losses are wanted, of a `slope` job.
        rows: content of the table of row weights that the recipe names; empty if it names none.
        generation: the engine that writes answers; `auto`, of a `prepare` job only, asks for all their times.
    """

    id: str
    kind: JobKind
    recipe: Mapping[str, Any] | None = None
    split: Split = "search"
    deadline: float | None = None
    race: Race | None = None
    slope: SlopeWork | None = None
    rows: bytes = b""
    generation: Literal["auto", "padded", "continuous"] = "padded"


@dataclass(frozen=True)
class Measured:
    """What was measured of a merge.

    Attributes:
        metrics: `EVALUATOR.METRIC` to its score.
        statistics: numbers about the merge itself (`l1`, `l2`, `tensors_written`).
        beaten_by: the reference it lost to, if it was given up in a race.
        seen: then, by evaluator, how many items it has answered.
    """

    metrics: Mapping[str, Metric]
    statistics: Mapping[str, float] = field(default_factory=dict)
    beaten_by: str | None = None
    seen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        status: `ok`; `raced` (given up); `failed` (the candidate's own fault); `lost` (the worker died,
            was killed at its deadline, could not be reached, ran out of memory or lost its device);
            `fault` (no candidate's fault: files, evaluators or the machine; `failure` is the name of the
            `EvomergeError`, `problems` are its problems).
        failure: class of a failure, for example `nonfinite_weights`, `worker_died`, `node_lost`,
            `deadline`, `out_of_memory`, `device_error`.
        message: one line for people.
        traceback: of an unforeseen failure, its last `MOST_TRACEBACK` characters; else empty.
        problems: of a `fault`.
        prepared: what a `prepare` job found.
        measured: what an `evaluate` job measured, where it is `ok` or `raced`.
        slope: what a `slope` job measured.
        items: per-item results, as `Scores.arrays`; of a raced candidate, those it has.
        seconds: phase to wall seconds (`merge`, `evaluate`, `load`; `lost` of a lost job).
    """

    id: str
    status: Literal["ok", "raced", "failed", "lost", "fault"]
    failure: str = ""
    message: str = ""
    traceback: str = ""
    problems: tuple[Problem, ...] = ()
    prepared: PreparedEvent | None = None
    measured: Measured | None = None
    slope: MeasuredSlope | None = None
    items: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def error_of(result: JobResult) -> EvomergeError:
    """The error a worker met, rebuilt from a result of status `fault`."""
    kinds = {kind.__name__: kind for kind in EvomergeError.__subclasses__()}
    return kinds.get(result.failure, EnvironmentFault)(list(result.problems) or result.message)
