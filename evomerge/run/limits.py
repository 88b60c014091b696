"""Limits: what ends a search, whichever comes first: evaluations, items, hours, or a plateau.

Evaluations and items are one account: an item is a share of an evaluation, a race costs its items, a slope
its passes over them. A plateau is seen ahead where the optimizer has a model, whose forecasts are recorded,
and looking back elsewhere. All but hours follow from the ledger alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evomerge.campaign.file import BudgetSection
from evomerge.ledger.bounds import told_bounds
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import CampaignEvent
from evomerge.ledger.history import History
from evomerge.objectives.constraint import broken
from evomerge.objectives.objective import complete
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.improvement import near_volume

WINDOW = 2
"""Populations' worth of told candidates over which a plateau is looked for."""

ENDED = {
    "budget": "its budget of evaluations",
    "items": "its budget of items",
    "hours": "its budget of hours",
    "plateau": "a plateau: the next candidates would add too little hypervolume, or the last ones did",
    "exhausted": "its search space: every point was asked",
    "interrupted": "an interrupt; {again} goes on",
    "stopped": "SIGTERM; {again} goes on",
    "fault": "a fault; once mended, {again} goes on",
    "breaker": "too many failures",
}
"""Reasons of `stopped` events, in words; `again`: the command that goes on."""


@dataclass(frozen=True)
class Ahead:
    """What the last population's worth of asked candidates was expected to add.

    Attributes:
        candidates: how many these are.
        gain, low, high: shares of the hypervolume, each summed over batches: the mean, and the ends of the
            interval. `high` is None while what the search may go on to has no model.
        of: which hypervolume, in words.
        plateau: the search ends once `high` is below this share; None where no such limit is known.
    """

    candidates: int
    gain: float
    low: float
    high: float | None
    of: str
    plateau: float | None = None


def ahead_text(found: Ahead) -> str:
    """A forecast in words, and what it is compared with."""
    last = (
        "candidate asked was" if found.candidates == 1 else f"{found.candidates} candidates asked were"
    )
    text = (
        f"the last {last} expected to add {_percent(found.gain)} % of {found.of}, {_percent(found.low)}"
    )
    if found.high is None:
        return f"{text} % or more; what the search may go on to has no model yet"
    ends = "" if found.plateau is None else f"; {_ends('the upper end', found.plateau)}"
    return f"{text} to {_percent(found.high)} %{ends}"


def _percent(share: float) -> str:
    return f"{round(100 * share, 2 if share < 0.1 else 1):g}"


def _ends(what: str, plateau: float) -> str:
    return f"the search ends once {what} is below {100 * plateau:g} %"


def volume_words(stated: CampaignEvent) -> str:
    """Which hypervolume a plateau is a share of."""
    if stated.config["optimizer"].get("focus") is None:
        return "the hypervolume"
    return f"the hypervolume {'in the region' if stated.preference is None else 'near the focus'}"


def ended_text(reason: str, refinement: bool = False, plateau: str = "") -> str:
    """What ended the last session of a search, or of a refinement, in words; `plateau`: of `plateau_text`."""
    if reason == "plateau" and plateau:
        return f"a plateau: {plateau}"
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
    objectives, bounds = history.stated.objectives, told_bounds(history, None)

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


def ahead(history: History) -> Ahead | None:
    """What is expected of those just asked, which need not be evaluated yet; from the ledger alone.

    None where less than a population's worth was asked, or a batch was chosen without a model.
    """
    enough = history.stated.population
    count, gains, lows = 0, 0.0, 0.0
    highs: list[float | None] = []
    for batch, forecast in zip(reversed(history.generations), reversed(history.forecasts), strict=True):
        if not batch or history.candidates[batch[0]].asker is not None:
            continue
        if forecast is None or forecast.gain is None or forecast.low is None:
            return None
        count, gains, lows = count + len(batch), gains + forecast.gain, lows + forecast.low
        highs.append(forecast.high)
        if count >= enough:
            known = [high for high in highs if high is not None]
            high = sum(known) if len(known) == len(highs) else None
            plateau = _stated_plateau(history, high) if history.stated.has_forecasts else None
            return Ahead(count, gains, lows, high, volume_words(history.stated), plateau)
    return None


def expected_gain(history: History) -> float | None:
    """The upper end of what is expected of the last candidates asked, a share of the hypervolume."""
    found = ahead(history)
    return None if found is None else found.high


def _stated_plateau(history: History, gain: float | None) -> float | None:
    """The campaign's `budget.plateau`, as far as known.

    The ledger keeps the first session's. None where whether the search ended there shows that it was changed.
    """
    stated: float | None = history.config.get("budget", {}).get("plateau")
    is_below = stated is not None and gain is not None and gain < stated
    return stated if is_below == (history.stopped == "plateau") else None


def plateau_text(history: History) -> str:
    """What the search that ended at a plateau expected, or gained of late; empty where it ended at none."""
    if history.stopped != "plateau":
        return ""
    found = ahead(history) if history.stated.has_forecasts else None
    if found is not None and found.high is not None:
        return ahead_text(found)
    gain = recent_gain(history)
    if gain is None:
        return ""
    told, plateau = WINDOW * history.stated.population, _stated_plateau(history, gain)
    ends = "" if plateau is None else f"; {_ends('that', plateau)}"
    return f"the last {told} candidates told added {_percent(gain)} % of {volume_words(history.stated)}{ends}"


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
