"""What a campaign without faults will do and take, in words."""

from __future__ import annotations

from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.check import CheckReport
from evomerge.front.words import duration, size
from evomerge.ledger.events import CampaignEvent
from evomerge.ledger.history import LEDGER_FILE
from evomerge.optimizers.kinds import optimizer_settings
from evomerge.optimizers.lesson import MANY
from evomerge.optimizers.settings import AutoSettings, LearnedFrontSettings
from evomerge.run.limits import volume_words


def plan_rows(campaign: Campaign, report: CheckReport) -> list[tuple[str, str]]:
    """The rows of a plan as (name, words), of a campaign in which no faults were found."""
    config, estimates = campaign.config, report.estimates
    rows = [
        ("campaign", f"{config.name}: {len(campaign.experts)} experts, no faults found"),
        ("model", f"{estimates['parameters'] / 1e6:.1f} M parameters, stored as {report.storage}"),
        ("search space", f"{report.genes} genes, method {campaign.space.method}"),
        ("weights", _weights(report)),
        ("items", _items(report)),
        ("memory", f"about {size(estimates['memory_bytes'])} for all workers"),
        ("disk", f"about {size(estimates['disk_bytes'])} for the campaign folder and one export"),
        ("budget", _budget(campaign)),
    ]
    if report.learns:
        rows += _learning(campaign, report)
    if report.starts:
        rows.append(("starts", _starts(report)))
    if "seconds" in estimates:
        seconds = duration(estimates["seconds"])
        again = f"about {estimates['rescored']:.0f} models scored again on selection items"
        rows.append(("time", f"about {seconds}, with {again}; and what the workers take to start"))
    return rows


def _weights(report: CheckReport) -> str:
    if report.weights is None:
        return "not read: NaN and experts that equal the base show with --deep, or when a run begins"
    return f"read once: {len(report.weights)} models, all of their numbers finite"


def _items(report: CheckReport) -> str:
    words = f"{report.estimates['items']:.0f} search items a candidate"
    held = {s: sum(of.get(s, 0) for of in report.items.values()) for s in ("selection", "test")}
    beside = [f"{count} {split} items" for split, count in held.items() if count]
    return "; ".join([words, " and ".join(beside)]) if beside else words


def _starts(report: CheckReport) -> str:
    most = sum(report.starts.values())
    each = [f"{count} of {Path(file).name}" for file, count in report.starts.items()]
    words = f"at most {most} points are asked first: {', '.join(each)}"
    if any((Path(file) / LEDGER_FILE).is_file() for file in report.starts):
        words += "; what a campaign measured as this one would costs nothing"
    return words


def _learning(campaign: Campaign, report: CheckReport) -> list[tuple[str, str]]:
    """What a person may want otherwise of a map that is learned: idle workers, genes that are not learned."""
    section, stages = campaign.config.optimizer, campaign.stages
    settings = stages[0].settings if stages else optimizer_settings(section.kind, section.options)
    assert isinstance(settings, AutoSettings | LearnedFrontSettings)
    if settings.steps == 0:
        return []
    if isinstance(settings, AutoSettings):
        option, jobs = "step_preferences", settings.step_preferences
        goes_on = settings.beyond == "chosen" and report.genes < MANY * len(campaign.experts)
    else:
        option, jobs, goes_on = "preferences", settings.preferences, False
    rows, count = [], campaign.config.workers.count
    if count > jobs:
        words = f"a step of the lesson keeps {jobs} of {count} workers busy, the others wait; option"
        more = "keeps all, each with its share of the step's items"
        rows.append(("learning", f"{words} `{option}: {count}` {more}"))
    if held := _not_learned(campaign, report):
        words = f"weights of experts alone are learned; held in mid-range: {', '.join(held)}"
        if goes_on:
            words += ", until the search goes on from map and chart to the genes, if it does"
        rows.append(("not learned", f"{words}; `kind: surrogate` searches them from the start"))
    return rows


def _not_learned(campaign: Campaign, report: CheckReport) -> list[str]:
    """The coefficients of merges that have genes which no gradient reaches."""
    genes = [] if report.space is None else report.space.genes
    return sorted(
        {
            gene.coefficient
            for gene in genes
            if gene.paths is None
            and not (gene.coefficient == "weight" and gene.input in campaign.experts)
        }
    )


def _budget(campaign: Campaign) -> str:
    config = campaign.config
    budget = config.budget
    parts = []
    if budget.evaluations is not None:
        singles = len(config.baselines.single)
        baselines = 2 + len(campaign.experts) + singles
        parts.append(f"{budget.evaluations} evaluations after {baselines} baselines")
    if budget.hours is not None:
        parts.append(f"at most {budget.hours:g} hours")
    if budget.items is not None:
        parts.append(f"at most {budget.items} search items")
    if budget.plateau is not None:
        stated = CampaignEvent(config=campaign.to_json(), identity="", versions={})
        share = f"{100 * budget.plateau:g} % of {volume_words(stated)}"
        parts.append(
            f"until a population is expected to add less than {share}"
            if stated.has_forecasts
            else f"until two populations add less than {share}"
        )
    return ", ".join(parts)
