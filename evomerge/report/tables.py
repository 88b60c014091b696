"""Cards and tables of a report, as texts in the order in which the template shows them."""

from __future__ import annotations

import shlex
from typing import Any

from evomerge.front.decision import Card, Claim, Decision
from evomerge.front.front import Front, Member
from evomerge.front.statistics import Interval
from evomerge.front.tables import headed, labels, mean, shown_interval, shown_metric, shown_value
from evomerge.front.terminal import optimism_heads
from evomerge.front.uncertainty import FrontUncertainty
from evomerge.objectives.measures import MEAN, WORST, alike, baseline_kind, is_fraction


def card_row(front: Front, card: Card, directory: str, out: str) -> dict[str, Any]:
    """A card: who it is, its scores beside the best expert and the best single coefficient, its command."""
    member = next(each for each in front.members if each.id == card.member)
    single = card.against_single[0].against if card.against_single else ""
    rows = []
    experts, singles = card.against_experts, card.against_single
    measures = [claim.measure for claim in experts or singles] or [o.metric for o in front.objectives]
    names = {o.metric: headed(o) for o in front.objectives} | {n: f"{n} %" for n in (MEAN, WORST)}
    for k, measure in enumerate(measures):
        metrics = member.metrics[front.split]
        if measure in metrics:
            value, _, error = shown_metric(measure, metrics[measure]).partition(" ")
        else:
            value, error = shown_value(measure, (experts or singles)[k].value).removesuffix(" %"), ""
        claims = [_claim(experts[k]) if experts else None]
        if single:
            claims.append(_claim(singles[k]))
        rows.append({"measure": names[measure], "value": value, "error": error, "claims": claims})
    beaten = [
        each.baseline + ("" if each.probability is None else f" (P {each.probability:.2f})")
        for each in card.dominates
    ]
    weakest = "The member whose weakest scaled objective is best"
    says = {
        "knee": f"{weakest}.",
        "best mean": "The highest mean over the objectives.",
        "best worst case": "The highest of lowest scores.",
    }
    if not alike(front.objectives):
        says["best mean"] = "The best mean of the scaled objectives, which have no common unit."
        says["best worst case"] = f"{weakest}: as the knee, where objectives have no common unit."
    return {
        "kind": card.kind,
        "member": card.member,
        "probability": card.probability,
        "words": says[card.kind]
        + (f" It is the baseline {member.equals[0]} itself." if member.equals else ""),
        "rows": rows,
        "single": single,
        "dominates": ", ".join(beaten),
        "command": f"evomerge export {directory} {shlex.quote(card.pick)} {shlex.quote(out)}",
    }


def _claim(claim: Claim) -> dict[str, str]:
    gap = claim.difference or Interval(claim.value - claim.other, 0.0, 0.0)
    value, _, interval = shown_interval(claim.measure, gap).partition(" ")
    kind = baseline_kind(claim.against)
    other = shown_value(claim.measure, claim.other).removesuffix(" %")
    against = other if kind == "single" else f"{claim.against} {other}"
    sure = claim.probability is not None and (claim.probability >= 0.95 or claim.probability <= 0.05)
    better = claim.probability is not None and claim.probability >= 0.5
    return {
        "difference": value,
        "interval": interval if claim.difference is not None else "",
        "probability": "" if claim.probability is None else f"P {claim.probability:.2f}",
        "words": against,
        "tone": ("good" if better else "bad") if sure else "",
    }


def heads(front: Front) -> list[tuple[str, bool]]:
    """Heads of the table of models, each with whether its cells are words."""
    heads = [("model", False)]
    heads += [(headed(objective), False) for objective in front.objectives]
    with_mean = _has_mean(front)
    return [
        *heads,
        *([("mean %", False)] if with_mean else []),
        ("P(non-dominated)", False),
        ("pick, or what it is", True),
        ("dominates", True),
    ]


def _has_mean(front: Front) -> bool:
    everyone = (*front.members, *front.references)
    return bool(everyone) and mean(front, everyone[0]) is not None


def mean_word(front: Front) -> str:
    """What the colour by mean is called."""
    return "mean %" if alike(front.objectives) else "mean of scaled objectives, more is better"


def model_rows(front: Front, decision: Decision) -> list[dict[str, Any]]:
    """Every member and baseline: value to sort by, text, whether it is words."""
    beside, with_mean = labels(front), _has_mean(front)
    rows = []
    for member in (*front.members, *front.references):
        cells: list[tuple[Any, str, bool]] = []
        for objective in front.objectives:
            cells.append(_score_cell(front, member, objective.metric))
        if with_mean:
            average = mean(front, member)
            cells.append(
                ("", "", False) if average is None else (average, f"{100 * average:.1f}", False)
            )
        probability = member.probability
        cells.append(
            ("", "", False) if probability is None else (probability, f"{probability:.2f}", False)
        )
        beaten = decision.dominates.get(member.id, ())
        words = ", ".join(
            each.baseline + ("" if each.probability is None else f" {each.probability:.2f}")
            for each in beaten
        )
        cells += [(beside[member.id], beside[member.id], True), (len(beaten), words, True)]
        rows.append({"id": member.id, "cells": cells})
    return rows


def _score_cell(front: Front, member: Member, metric: str) -> tuple[Any, str, bool]:
    split = front.split if front.split in member.metrics else "search"
    found = member.metrics[split][metric]
    return (
        found.value,
        shown_metric(metric, found) + ("" if split == front.split else " (search)"),
        False,
    )


def optimism_rows(believed: FrontUncertainty) -> dict[str, Any] | None:
    """How much search scores flatter; None before the selection phase."""
    if believed.optimism is None:
        return None
    names = [objective.metric for objective in believed.objectives]
    with_mean = len(names) > 1 and believed.has_mean
    rows = []
    for index, name in enumerate([*names, *([MEAN] if with_mean else [])]):
        cells = []
        for found in (believed.optimism, believed.shrinkage):
            own = (
                None
                if found is None
                else found.mean
                if index == len(names)
                else found.objectives[index]
            )
            cells.append("" if own is None else shown_interval(name, own))
        rows.append([f"{name} %" if is_fraction(name) else name, *cells])
    count = len(believed.best_on_search)
    models = "the best model" if count == 1 else f"the {count} best models"
    return {
        "title": f"How much better {models} by search items looked on those than on held-out ones.",
        "heads": [f"{name} [95 %]" for name in optimism_heads(believed)],
        "rows": rows,
    }


def volume_rows(front: Front, believed: FrontUncertainty) -> list[list[str]]:
    """Hypervolume by split with its interval."""
    rows = []
    for split, value in front.hypervolume.items():
        interval = believed.hypervolume.get(split)
        rows.append(
            [split, f"{value:.4f}", f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""]
        )
    return rows
