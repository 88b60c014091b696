"""Limits: what ends a search, whichever comes first: evaluations, items, hours, or a plateau.

Evaluations and items are one account: an item is a share of an evaluation, a race costs its items, a slope
its passes over them. A plateau is seen ahead where the optimizer has a model, whose forecasts are recorded,
and looking back elsewhere. All but hours follow from the ledger alone.
"""

from __future__ import annotations

import numpy as np

from evomerge.campaign.file import BudgetSection
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives.constraint import broken
from evomerge.objectives.objective import complete
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.improvement import near_volume

WINDOW = 2
"""Populations' worth of told candidates over which a plateau is looked for."""

ENDED = {
    "budget": "its evaluations",
    "items": "its items",
    "hours": "its hours",
    "plateau": "a plateau: the next candidates would add too little hypervolume, or the last ones did",
    "exhausted": "its search space: every point was asked",
    "interrupted": "an interrupt; {again} goes on",
    "stopped": "SIGTERM; {again} goes on",
    "fault": "a fault; once mended, {again} goes on",
    "breaker": "too many failures",
}
"""Reasons of `stopped` events, in words; `again`: the command that goes on."""


def ended_text(reason: str, refinement: bool = False) -> str:
    """What ended the last session of a search, or of a refinement, in words."""
    same = "`evomerge refine` with the same --prefer and --evaluations"
    return ENDED.get(reason, reason).format(again=same if refinement else "`evomerge run`")


def spent_reason(budget: BudgetSection, search_items: int) -> str:
    """Which of the two ends a search first: `budget` or `items`."""
    allowed = budget.evaluations_allowed(search_items)
    return "budget" if allowed == budget.evaluations else "items"


def recent_gain(history: History) -> float | None:
    """What the last `WINDOW` populations' worth of told candidates added, as a share of the hypervolume.

    On search scores, of what keeps all constraints and lies in the region, where the focus is one; where it
    is a preference, near that. Of the campaign's own optimizer; what was free is none of these. None while
    fewer than twice as many were told, or where nothing is better than the reference.
    """
    scaling = history.scaling
    window = WINDOW * history.stated.population
    every = [
        history.candidates[name]
        for turn in history.turns
        if turn.state is not None and turn.asker is None
        for name in turn.ids
    ]
    free = [candidate for candidate in every if candidate.is_free]
    told = [candidate for candidate in every if not candidate.is_free]
    if scaling is None or len(told) < 2 * window:
        return None
    objectives, bounds = history.stated.objectives, history.told_bounds(None)

    def scaled(candidates: list[Candidate]) -> np.ndarray:
        found = [c.evaluations["search"].metrics for c in candidates if "search" in c.evaluations]
        rows = [complete(objectives, each).values for each in found if not broken(bounds, each)]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
        return scaling.scale(values)

    everything, earlier = scaled([*free, *told]), scaled([*free, *told[:-window]])
    if (preference := history.stated.preference) is None:
        now, before = hypervolume(everything), hypervolume(earlier)
    else:
        focus = np.array(preference) / max(preference)
        now, before = (near_volume(values, everything, focus) for values in (everything, earlier))
    return None if now <= 0.0 else (now - before) / now


def expected_gain(history: History) -> float | None:
    """What the last population's worth of asked candidates is expected to add, a share of the hypervolume.

    The upper ends of the intervals, summed over batches: those just asked, which need not be evaluated yet.
    From the ledger alone. None where too little was asked, or a batch was chosen without a model.
    """
    left = history.stated.population
    total = 0.0
    for batch, forecast in zip(reversed(history.generations), reversed(history.forecasts), strict=True):
        if not batch or history.candidates[batch[0]].asker is not None:
            continue
        if forecast is None or forecast.high is None:
            return None
        total += forecast.high
        left -= len(batch)
        if left <= 0:
            return total
    return None


def at_plateau(history: History, budget: BudgetSection) -> bool:
    """Whether what was gained of late, or with a model what is expected next, is under `budget.plateau`."""
    if budget.plateau is None:
        return False
    gain = expected_gain(history) if history.stated.has_forecasts else recent_gain(history)
    return gain is not None and gain < budget.plateau


def is_reached(history: History, budget: BudgetSection) -> bool:
    """Whether a campaign stopped at a limit that leaves nothing to do with this budget either."""
    if history.selection is None:
        return False  # what a refinement found that was cut short is to be scored
    match history.stopped:
        case "budget" | "items":
            allowed = budget.evaluations_allowed(history.search_items)
            return allowed is not None and history.cost_of(None) >= allowed
        case "hours":
            return budget.hours is not None and history.search_elapsed >= 3600 * budget.hours
        case "plateau":
            # Before 2026-12 no forecasts were recorded, and the past decided.
            forecasts = any(each is not None for each in history.forecasts)
            gain = None if forecasts or budget.plateau is None else recent_gain(history)
            return at_plateau(history, budget) or (gain is not None and gain < (budget.plateau or 0.0))
    return history.stopped == "exhausted"
