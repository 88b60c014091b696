"""What a campaign without faults will do and take, in words."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.campaign.campaign import Campaign
from evomerge.front.words import duration, size


def plan_rows(
    campaign: Campaign, storage: str, genes: int, estimates: Mapping[str, float]
) -> list[tuple[str, str]]:
    """The rows of a plan as (name, words); see `CheckReport` for the estimates."""
    config = campaign.config
    rows = [
        ("campaign", f"{config.name}: {len(campaign.experts)} experts, no faults found"),
        ("model", f"{estimates['parameters'] / 1e6:.1f} M parameters, stored as {storage}"),
        ("search space", f"{genes} genes, method {campaign.space.method}"),
        ("items", f"{estimates['items']:.0f} search items a candidate"),
        ("memory", f"about {size(estimates['memory_bytes'])} for all workers"),
        ("disk", f"about {size(estimates['disk_bytes'])} for the campaign folder and one export"),
        ("budget", _budget(campaign)),
    ]
    if "seconds" in estimates:
        seconds = duration(estimates["seconds"])
        rows.append(("time", f"about {seconds}, and what the workers take to start"))
    return rows


def _budget(campaign: Campaign) -> str:
    budget = campaign.config.budget
    parts = []
    if budget.evaluations is not None:
        singles = len(campaign.config.baselines.single)
        baselines = 2 + len(campaign.experts) + singles
        parts.append(f"{budget.evaluations} evaluations after {baselines} baselines")
    if budget.hours is not None:
        parts.append(f"at most {budget.hours:g} hours")
    return ", ".join(parts)
