"""Which candidate of a campaign is meant, and its recipe, decoded again from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evomerge.campaign.campaign import Campaign, campaign_from_json
from evomerge.campaign.check import locate
from evomerge.campaign.prepared import prepared_recipe, prepared_sources
from evomerge.errors import GO_ON, LedgerDamaged, Problem, UsageError
from evomerge.front.candidate import find_candidate
from evomerge.front.folder import open_campaign_folder
from evomerge.front.front import Front
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import PreparedEvent
from evomerge.ledger.history import History
from evomerge.objectives.constraint import broken
from evomerge.objectives.objective import complete
from evomerge.objectives.pareto import dominates
from evomerge.objectives.scores import Split
from evomerge.optimizers.baselines import ENSEMBLE
from evomerge.recipe.recipe import CheckpointSource, Recipe


@dataclass(frozen=True)
class Chosen:
    """A candidate to export.

    Attributes:
        campaign: as recorded.
        candidate: with its evaluations.
        recipe: decoded; its digest is the recorded one.
        models: base and experts by name, also those that the recipe does without.
        front: the front as it stands.
        prepared: the `prepared` event.
        versions: libraries when the campaign began, by name.
        warnings: what a person should know of the choice.
    """

    campaign: Campaign
    candidate: Candidate
    recipe: Recipe
    models: Mapping[str, CheckpointSource]
    front: Front
    prepared: PreparedEvent
    versions: Mapping[str, str]
    warnings: tuple[str, ...]


def choose(directory: Path, choice: str) -> Chosen:
    """Read a campaign folder and find the candidate a person asks for.

    Args:
        directory: the campaign folder; it is not locked, so that a run may be under way.
        choice: what `front.pick` takes, or the id of any evaluated candidate or baseline.

    Raises:
        UsageError: E506 unknown id or form, E507 a candidate without scores or no front yet, E509 no
            campaign here.
        CheckpointError: E201, a hub model is no longer in the local cache.
        LedgerDamaged: E502, E503 the ledger cannot be read; E505 it decodes to another recipe.
    """
    opened = open_campaign_folder(directory)
    history, front = opened.history, opened.front()
    candidate, warnings = _candidate(history, front, choice)
    campaign = campaign_from_json(history.config)
    assert history.prepared is not None  # a front needs baselines, and those need it
    paths = {name: locate(name, reference) for name, reference in campaign.references().items()}
    recipe = prepared_recipe(campaign, history.prepared, paths, candidate)
    if recipe.digest != candidate.recipe:
        found = (
            f"{candidate.id} decodes to recipe {recipe.digest[:12]}, recorded {candidate.recipe[:12]}"
        )
        todo = f"use evomerge {history.versions.get('evomerge', '')}, which wrote it"
        raise LedgerDamaged(
            Problem("E505", "the ledger decodes to another recipe", found, todo, str(directory))
        )
    return Chosen(
        campaign=campaign,
        candidate=candidate,
        recipe=recipe,
        models=prepared_sources(campaign, history.prepared, paths),
        front=front,
        prepared=history.prepared,
        versions=history.versions,
        warnings=warnings,
    )


def _candidate(history: History, front: Front, choice: str) -> tuple[Candidate, tuple[str, ...]]:
    warnings = []
    if front.split == "search":
        warnings.append("the selection phase is not done: the front is by search scores")
    candidate = find_candidate(history, lambda: front, choice)
    name = candidate.id
    if candidate.failure is not None:
        found = f"{candidate.failure}: {candidate.message}"
        raise UsageError(Problem("E507", f"`{name}` failed and has no scores", found))
    if candidate.raced is not None:
        wrong = f"`{name}` was given up in a race and has no whole scores"
        found = f"{candidate.beaten_by} is better on every task"
        raise UsageError(Problem("E507", wrong, found, f"export {candidate.beaten_by}"))
    if name == ENSEMBLE:
        wrong = f"`{name}` is no model: its experts answer together, and are not merged"
        raise UsageError(Problem("E507", wrong, "", "choose a member of the front"))
    if "search" not in candidate.evaluations:
        raise UsageError(Problem("E507", f"`{name}` has not been evaluated yet", todo=GO_ON))
    same = history.baselines_equal_to(candidate)
    itself = (f"{name} is the baseline {same[0]} itself",) if same else ()
    return candidate, (*warnings, *_standing(history, front, candidate), *itself)


def _standing(history: History, front: Front, candidate: Candidate) -> tuple[str, ...]:
    """A warning where the candidate is no member of the front."""
    if candidate.is_baseline:
        return (f"{candidate.id} is a baseline, not a result of the search",)
    if candidate.recipe in {member.recipe for member in front.members}:
        return ()
    split: Split = front.split if front.split in candidate.evaluations else "search"
    bounds = broken(bounds_of(history, split), candidate.evaluations[split].metrics)
    if bounds:
        missed = ", ".join(map(str, bounds))
        return (f"{candidate.id} is not on the front, it breaks {missed} on {split} items",)
    mine = np.array(complete(front.objectives, candidate.evaluations[split].metrics).values)
    better = [
        member.id
        for member in front.members
        if split in member.metrics
        and dominates(np.array(complete(front.objectives, member.metrics[split]).values), mine)
    ]
    by = f", dominated by {', '.join(better[:3])} on {split} items" if better else ""
    late = "" if split == front.split else f"; it has no {front.split} scores"
    return (f"{candidate.id} is not on the front{by}{late}",)
