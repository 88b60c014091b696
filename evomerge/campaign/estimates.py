"""What a campaign will take, from headers and declarations alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.evaluators.declaration import Declaration, OpenedItems
from evomerge.merge.mixture.architectures import MLP
from evomerge.recipe.registered import find_method
from evomerge.search_space import ModelLayout
from evomerge.search_space.layer_path import EXPERTS

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
FLOPS = {"float32": 45e9, "bfloat16": 135e9, "float16": 45e9}
"""What one thread reached on the models in `experiments/`, all overhead included."""

RESCORED = 0.5
"""Share of the candidates that are scored again, on selection items: of 216 of the quickstart 123 were."""

WORKER_BASE_BYTES = 450_000_000
"""Resident memory of a worker before its model: Python, torch, one modelling file, lm-eval."""


def estimates_of(
    campaign: Campaign,
    layout: ModelLayout,
    base: CheckpointFolder,
    storage: str,
    declarations: Mapping[Path, Declaration],
    opened: Mapping[Path, OpenedItems],
) -> dict[str, float]:
    """Parameters, items, evaluations, bytes of memory and disk and, on processors, seconds of a campaign.

    Args:
        campaign: the campaign.
        layout: of its base.
        base: opened.
        storage: dtype of the checkpoints.
        declarations: its evaluators by file.
        opened: the items of those that were opened.
    """
    config = campaign.config
    size = layout.parameters * BYTES[storage]
    workers = 1 if config.workers.pool == "inline" else config.workers.count
    items = tokens = held_out = 0
    for path, declaration in declarations.items():
        found = declaration.size()
        beside = found[0]
        if path in opened and (ids := opened[path].ids):
            found = len(ids["search"]), opened[path].tokens
            beside = len(ids["selection"])
        items += found[0]
        tokens += found[1]
        held_out += beside
    # Whoever is begun is brought to an end. Items that are not counted yet limit nothing.
    allowed = config.budget.evaluations_allowed(items) if items else config.budget.evaluations
    evaluations = math.ceil(allowed or 0)
    statistics = calibration_bytes(campaign, base)
    mixture = mixture_parameters(campaign, base)
    held = statistics + mixture * BYTES[config.evaluation.dtype]
    folder = evaluations * (items + 4_000) + size + _rank_bytes(campaign, layout) + statistics
    estimates = {
        "parameters": float(layout.parameters),
        "items": float(items),
        "evaluations": float(evaluations),
        "memory_bytes": float(memory_bytes(campaign, layout, storage, workers, held)),
        "disk_bytes": float(folder + mixture * BYTES[storage]),
        "rescored": float(math.ceil(RESCORED * evaluations)),
    }
    if statistics:
        estimates["calibration_bytes"] = float(statistics)
    if mixture:
        estimates["mixture_bytes"] = float(mixture * BYTES[config.evaluation.dtype])
    share = held_out / items if items else 1.0
    return estimates | _seconds(campaign, layout, evaluations, tokens, share, workers)


def memory_bytes(
    campaign: Campaign, layout: ModelLayout, storage: str, workers: int, held: int = 0
) -> int:
    """Bytes of memory of one machine with so many workers of a campaign, Ray's own left out.

    `held` is what each worker holds beside experts and live model: statistics on a calibration text, the
    model of a mixture. While statistics are gathered the first one also holds an expert in float32, for
    Fisher diagonals its gradient too.
    """
    copies = {None: 0, "input_grams": 1, "fisher": 2}[find_method(campaign.space.method).on_inputs]
    gathering = 4 * layout.parameters * copies
    live = layout.parameters * BYTES[campaign.config.evaluation.dtype]
    # Mapped experts are shared by the workers of a node; each worker holds one live model.
    mapped = (1 + len(campaign.experts)) * layout.parameters * BYTES[storage]
    together = len(campaign.experts) * live if campaign.config.baselines.ensemble else 0
    each = WORKER_BASE_BYTES + live + together + held
    return workers * each + gathering + mapped + _rank_bytes(campaign, layout)


def mixture_parameters(campaign: Campaign, base: CheckpointFolder) -> int:
    """Parameters of the largest mixture of experts that a campaign may make, 0 where it makes none.

    With Arrow's two sides every expert is there twice. Each lies in files for the moment while it is loaded.
    """
    section = campaign.space.mixture
    if section is None:
        return 0
    experts = {
        e for name in section.experts for e in (campaign.experts if name == EXPERTS else (name,))
    }
    count = len(experts) * (2 if section.gate_mode == "arrow" and section.sides == "both" else 1)
    sizes = {name: header.elements for name, header in base.tensors.items()}
    routed = sum(size for name, size in sizes.items() if MLP.fullmatch(name))
    return sum(sizes.values()) + (count - 1) * routed


def calibration_bytes(campaign: Campaign, base: CheckpointFolder) -> int:
    """Bytes of what a method needs of all experts on a calibration text, 0 where it needs nothing.

    float32: of `fisher` a number for each parameter, of `regmean` a Gram matrix [in, in] for each
    linear layer.
    """
    kind = find_method(campaign.space.method).on_inputs
    if kind is None:
        return 0
    headers = {name: header for name, header in base.tensors.items() if header.is_float}
    if kind == "fisher":
        numbers = sum(header.elements for header in headers.values())
    else:
        matrices = [h for n, h in headers.items() if len(h.shape) == 2 and base.places[n] != "embed"]
        numbers = sum(header.shape[1] ** 2 for header in matrices)
    return 4 * numbers * len(campaign.experts)


def _rank_bytes(campaign: Campaign, layout: ModelLayout) -> int:
    """Where a method needs ranks: a mapped file for each expert, two bytes an element."""
    needed = "ranks" in find_method(campaign.space.method).statistics
    return 2 * layout.parameters * len(campaign.experts) if needed else 0


def _seconds(
    campaign: Campaign,
    layout: ModelLayout,
    evaluations: int,
    tokens: int,
    held_out: float,
    workers: int,
) -> dict[str, float]:
    """A rough duration for processors; none for GPUs, whose speed no header tells.

    `held_out` is the number of selection items to one search item: what may belong to the front, and the
    baselines that are shown, are scored on these after the search.
    """
    evaluation = campaign.config.evaluation
    if evaluation.device != "cpu" or not tokens:
        return {}
    experts = len(campaign.experts)
    soups = experts - 1 if experts > 2 else 0  # at most: one for each expert that may join the best
    baselines = 2 + experts + len(campaign.config.baselines.single) + soups
    shown = 3 + experts + (soups > 0)
    runs = evaluations + baselines + held_out * (RESCORED * evaluations + shown)
    operations = 2.0 * layout.parameters * tokens * runs
    return {"seconds": operations / (FLOPS[evaluation.dtype] * evaluation.threads * workers)}
