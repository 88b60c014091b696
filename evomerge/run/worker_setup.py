"""What every worker of a campaign is told once, from the campaign."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.evaluators.kinds import load_declaration
from evomerge.evaluators.registered import registered, shipped
from evomerge.recipe.registered import shipped_methods
from evomerge.run.job import WorkerSetup


def worker_setup(
    campaign: Campaign, paths: Mapping[str, str], storage: str, cache: Path, allow_task_code: bool
) -> WorkerSetup:
    """What every worker of a campaign is told once."""
    evaluation = campaign.config.evaluation
    return WorkerSetup(
        sources=dict(paths),
        evaluators=tuple(str(path) for path in campaign.evaluator_files),
        methods=tuple(dict.fromkeys((campaign.space.method, "task_arithmetic"))),
        trims=(str(campaign.space.options.get("trim", "tensor")),),
        dtype=evaluation.dtype,
        storage=storage,
        device=evaluation.device,
        threads=evaluation.threads,
        batch_size=evaluation.batch_size,
        cache=str(cache),
        allow_task_code=allow_task_code,
        form=campaign.form,
        experts=campaign.config.workers.experts,
        kernels=campaign.config.workers.kernels,
        candidates=campaign.config.budget.evaluations or 0,
        devices=max(1, int(campaign.config.workers.gpus)),
        functions=shipped(_evaluator_kinds(campaign)),
        own_methods=shipped_methods([campaign.space.method]),
        by_tensor=campaign.space.by_tensor,
        by_row=campaign.space.by_row,
        layer_path=campaign.space.layer_path,
        calibration=campaign.space.calibrated,
    )


def _evaluator_kinds(campaign: Campaign) -> list[str]:
    return [load_declaration(file).kind for file in campaign.evaluator_files] if registered() else []
