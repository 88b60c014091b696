"""One candidate for people: genes, scores, seconds, or its failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evomerge.campaign.recorded import recorded_recipe, recorded_space
from evomerge.cli.output import plain, table_console
from evomerge.front.descent import descent_text
from evomerge.front.tables import ruled, scores_lines
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives.scores import SPLITS
from evomerge.search_space import Gene, Genome

MOST_GENES = 40
"""So many genes are shown one by one unless all are asked for."""


def candidate_json(history: History, candidate: Candidate) -> dict[str, Any]:
    """All that is known of a candidate as plain JSON data."""
    data: dict[str, Any] = {
        "id": candidate.id,
        "kind": "baseline" if candidate.is_baseline else "candidate",
        "equals": list(history.baselines_equal_to(candidate)),
        "digest": candidate.recipe,
        "recipe": recorded_recipe(history, candidate).to_json(),
        "scores": {
            split: {
                "metrics": {name: m.to_json() for name, m in evaluation.metrics.items()},
                "seconds": dict(evaluation.seconds),
                "statistics": dict(evaluation.statistics),
                "key": evaluation.key,
                "same_as": evaluation.same_as,
            }
            for split, evaluation in candidate.evaluations.items()
        },
        "constraints": {split: _kept(history, candidate, split) for split in candidate.evaluations},
        "attempts_lost": candidate.attempts_lost,
        "optimism": _optimism(candidate),
    }
    if candidate.genome is not None:
        genes = recorded_space(history).genes
        pairs = zip(genes, candidate.genome, strict=True)
        data["genome"] = {gene.name: value for gene, value in pairs}
        if not history.stated.is_steady:
            data["generation"] = candidate.generation
    if candidate.origin is not None:
        data["origin"] = candidate.origin.to_json()
    if candidate.raced is not None:
        data["raced"] = {
            "beaten_by": candidate.beaten_by,
            "seen": dict(candidate.seen),
            "metrics": {name: m.to_json() for name, m in candidate.raced.metrics.items()},
            "same_as": candidate.raced.same_as,
        }
    if candidate.failure is not None:
        data["failure"] = {"class": candidate.failure, "message": candidate.message}
        if candidate.traceback is not None:
            data["failure"]["traceback"] = candidate.traceback
    return data


def _kept(history: History, candidate: Candidate, split: str) -> list[dict[str, Any]]:
    """Each constraint on a split: its bound, the measured value, and whether it is kept."""
    metrics = candidate.evaluations[split].metrics
    return [
        bound.to_json() | {"measured": metrics[bound.metric].value, "kept": bound.is_kept(metrics)}
        for bound in bounds_of(history, split)
    ]


def _optimism(candidate: Candidate) -> dict[str, dict[str, float]] | None:
    """Search minus selection of each metric, with its standard error (the items differ)."""
    if not {"search", "selection"} <= set(candidate.evaluations):
        return None
    before, after = (candidate.evaluations[split].metrics for split in ("search", "selection"))
    return {
        name: {
            "value": before[name].value - after[name].value,
            "stderr": math.hypot(before[name].stderr, after[name].stderr),
        }
        for name in before
        if name in after
    }


def print_candidate(history: History, candidate: Candidate, every: bool = False) -> None:
    """A candidate as text and tables on stdout; with `every` gene, however many there are."""
    from rich.table import Table

    console = table_console()

    def tell(text: str) -> None:
        console.print(plain(text), markup=False, soft_wrap=True)

    what = "baseline" if candidate.is_baseline else "candidate"
    if not candidate.is_baseline and not history.stated.is_steady:
        what += f" of generation {candidate.generation}"
    same = history.baselines_equal_to(candidate)
    tell(f"{candidate.id}: {what}{f', the same merge as the baseline {same[0]}' if same else ''}")
    tell(f"recipe {candidate.recipe}")
    if came := descent_text(history, candidate):
        tell(f"origin: {came}")
    if candidate.failure is not None:
        tell(f"failed: {candidate.failure}: {candidate.message}")
        if candidate.failed_as is not None:
            tell(f"the same merge as {candidate.failed_as}, which failed first")
        if candidate.traceback is not None:
            tell("")
            tell(candidate.traceback)
    elif candidate.raced is not None:
        answered = f"{sum(candidate.seen.values())} of {history.search_items} items"
        tell(f"given up after {answered}: {candidate.beaten_by} is better on every task")
        tell("")
        for line in scores_lines({"search": candidate.raced.metrics}, console.width):
            tell(line)
    elif not candidate.evaluations:
        tell("not scored yet")
    if candidate.attempts_lost:
        tell(f"lost its worker {candidate.attempts_lost} times")
    splits = [split for split in SPLITS if split in candidate.evaluations]
    if splits:
        tell("")
        for line in scores_lines({s: candidate.evaluations[s].metrics for s in splits}, console.width):
            tell(line)
        tell("")
    for split in splits:
        for bound in bounds_of(history, split):
            metrics = candidate.evaluations[split].metrics
            kept = "keeps" if bound.is_kept(metrics) else "BREAKS"
            tell(f"{split}: {kept} {bound} ({metrics[bound.metric].value:.6g})")
    for split in splits:
        evaluation = candidate.evaluations[split]
        if evaluation.same_as:
            tell(f"{split}: the same merge as {evaluation.same_as}, scored once")
        elif evaluation.seconds:
            spent = ", ".join(f"{phase} {s:.2f} s" for phase, s in evaluation.seconds.items())
            tell(f"{split}: {spent}")
    if candidate.genome is not None:
        tell("")
        genes = recorded_space(history).genes
        table = Table(box=ruled(), pad_edge=False, show_edge=False)
        table.add_column("gene")
        if every or len(genes) <= MOST_GENES:
            table.add_column("value", justify="right")
            for gene, value in zip(genes, candidate.genome, strict=True):
                table.add_row(gene.name, f"{value:g}")
            console.print(table)
            return
        for head in ("genes", "mean", "least", "most"):
            table.add_column(head, justify="right")
        for name, values in _by_expert(genes, candidate.genome).items():
            numbers = (sum(values) / len(values), min(values), max(values))
            table.add_row(name, str(len(values)), *(f"{number:.4g}" for number in numbers))
        console.print(table)
        tell("")
        tell(f"{len(genes)} genes; --genes prints each, --json has them all")


def _by_expert(genes: Sequence[Gene], genome: Genome) -> dict[str, list[float]]:
    """Values of the genes of each coefficient and expert, in the order of the genes."""
    found: dict[str, list[float]] = {}
    for gene, value in zip(genes, genome, strict=True):
        name = gene.coefficient if gene.input == "*" else f"{gene.coefficient}.{gene.input}"
        found.setdefault(name, []).append(value)
    return found
