"""The look at every weight before the first candidate, and what it reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import TensorReader
from evomerge.errors import CheckpointError, Problem
from evomerge.ledger.events import TaskVectors
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.places import place_kind
from evomerge.recipe.registered import find_method

if TYPE_CHECKING:
    from evomerge.merge.statistics.weights import WeightStatistics


@dataclass(frozen=True)
class WeightReport:
    """What preparing found.

    Attributes:
        active: expert to the places its task vector touches.
        warnings: E233 problems, which do not stop a campaign.
        task_vectors: their inner products, for seeding.
    """

    active: Mapping[str, tuple[str, ...]]
    warnings: tuple[Problem, ...]
    task_vectors: TaskVectors


def prepare_statistics(
    statistics: WeightStatistics,
    sources: Mapping[str, CheckpointFolder | AdapterFolder],
    base: str,
    methods: Iterable[str],
    trims: Iterable[str] = ("tensor",),
    *,
    by_tensor: bool = False,
    calibration: Calibration | None = None,
) -> WeightReport:
    """Look at every weight once and compute what `methods` need, before the first candidate.

    What methods need on inputs is gathered on the text of `calibration`.

    Places are modules of layers, or with `by_tensor` the finest.

    Raises:
        CheckpointError: E232 for every source with NaN or infinite weights, E229 where a config ties
            the head and the files hold another one; all together.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    active: dict[str, tuple[str, ...]] = {}
    experts = [name for name in sources if name != base]
    for name, folder in sources.items():
        health = statistics.health(base, name)
        for tensor, count in health.nonfinite.items():
            found = f"{count} elements"
            problems.append(
                Problem("E232", f"{name} has NaN or infinite weights", found, "leave this expert out",
                        str(folder.path), field=tensor)
            )  # fmt: skip
        if isinstance(folder, CheckpointFolder):
            problems.extend(_untied_heads(folder))
        if name != base:
            active[name] = statistics.active_places(base, name, by_tensor=by_tensor)
            if not active[name]:
                warnings.append(
                    Problem("E233", f"{name} equals the base: its coefficients do nothing", "",
                            "leave it out", str(folder.path))
                )  # fmt: skip
    if problems:
        raise CheckpointError(problems)
    needed = {need for method in methods for need in find_method(method).statistics}
    first = next(iter(sources[base].tensors))
    for expert in experts if "magnitudes" in needed else ():
        for trim in trims:
            if trim == "model":
                statistics.model_threshold(base, expert, 1.0)
            else:
                statistics.threshold(base, expert, first, 1.0)
    if "gram" in needed and experts:
        statistics.gram(first, experts)
    for expert in experts if "ranks" in needed else ():
        statistics.ranks(base, expert, first)
    if "variances" in needed and experts:
        statistics.least_variance(base, experts, first, 1.0)
    for method in methods if calibration is not None else ():
        kind = find_method(method).on_inputs
        for expert in experts if kind is not None else ():
            assert kind is not None
            assert calibration is not None
            statistics.calibrated.of(kind, calibration, expert)
    grams = statistics.place_grams(base, experts, by_tensor=by_tensor) if experts else {}
    vectors = TaskVectors(
        experts=tuple(experts),
        gram={place: tuple(map(tuple, gram.tolist())) for place, gram in grams.items()},
    )
    return WeightReport(active, tuple(warnings), vectors)


def _untied_heads(folder: CheckpointFolder) -> list[Problem]:
    if not folder.redundant:
        return []
    reader = TensorReader(folder)
    places = folder.places
    embeddings = [reader.read(name) for name, place in places.items() if place_kind(place) == "embed"]
    problems = []
    for name in folder.redundant:
        head = reader.read(name)
        if not any(head.shape == e.shape and torch.equal(head, e) for e in embeddings):
            problems.append(
                Problem("E229", f"{folder.name}: the config ties the head, the files hold another", "",
                        "set tie_word_embeddings to false, or remove the tensor", str(folder.path),
                        field=name)
            )  # fmt: skip
    return problems
