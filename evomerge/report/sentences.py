"""The sentences of a report: what to see in each section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.export.log import held_out_use
from evomerge.front.decision import Decision
from evomerge.front.front import Front
from evomerge.front.statistics import Interval, Optimism
from evomerge.front.tables import shown_interval
from evomerge.front.uncertainty import FrontUncertainty
from evomerge.ledger.failed_slopes import failed_slopes, measured_slopes, slope_failure
from evomerge.ledger.history import History
from evomerge.ledger.sessions import FINAL
from evomerge.objectives.measures import MEAN, alike, is_fraction
from evomerge.objectives.objective import Objective
from evomerge.objectives.pareto import REFERENCE
from evomerge.run.standing import phase_of


def sentences(
    front: Front, decision: Decision, believed: FrontUncertainty, history: History
) -> dict[str, str]:
    """What to see in each section, one sentence each."""
    models = count_of(len(front.members), "model")
    apart = count_of(len(decision.groups), "group")
    evaluations = count_of(history.budget_used, "evaluation")
    if history.free:
        evaluations += f" beside {count_of(history.free, 'candidate')} known from earlier campaigns"
    if front.slopes or front.slopes_failed:
        failed = f" ({front.slopes_failed} more failed)" if front.slopes_failed else ""
        evaluations += (
            f" and {front.slopes} gradients and losses{failed}, which cost as much as "
            f"{front.slope_cost:.1f},"
        )
    said = {
        **fewer_sentences(),
        "decide": _decided(front, decision),
        "front": (
            f"{models} of which none is beaten on every objective, {apart} when those within two standard "
            "errors of one another are joined: look where the front bends, how far it lies from the "
            "baselines, and which models the intervals tell apart."
        ),
        "member": (
            "Choose a model in a picture or a table: which expert it takes from in which layer, and what "
            f"that wins and loses item by item, on {front.split} items."
        ),
        "search": (
            f"{evaluations} reached a hypervolume of {front.hypervolume['search']:.4f} on search items: a "
            "curve that has long been flat says that more of the same would bring little."
        ),
        "influence": (
            "From this search's own candidates: how many standard deviations of a score go with one of an "
            "expert's mean coefficient in a layer, all else alike. A search is no experiment: read the "
            "large ones only."
        ),
    }
    if believed.shrinkage is not None:
        lead = lead_words(front.objectives, believed.shrinkage)
        said["belief"] = (
            f"The best models lead the baselines by {lead} more on search items than on selection items, "
            "which the search never saw (in brackets the 95 % interval): near 0, the scores above can be "
            "believed."
        )
    return said


def lead_words(objectives: Sequence[Objective], shrinkage: Optimism) -> str:
    """How much of a lead did not hold: of the mean, or of each objective where these have no common unit."""
    if alike(objectives):
        return _told(MEAN, shrinkage.mean)
    pairs = zip(objectives, shrinkage.objectives, strict=True)
    return ", ".join(f"{_told(o.metric, found)} ({o.metric})" for o, found in pairs)


def _told(measure: str, found: Interval) -> str:
    """A signed difference with its interval, and the unit that a sentence has no head of a column for."""
    value, _, interval = shown_interval(measure, found).partition(" ")
    return f"{value}{' points' if is_fraction(measure) else ''} {interval}"


def fewer_sentences() -> dict[str, str]:
    """Those that need no front."""
    return {
        "experts": (
            "Where the experts moved far from the base, and where they moved the same way: large and "
            "opposed is where a merge has to choose."
        ),
        "belief": "What the numbers rest on: items by split, uses of the test items, versions and digests.",
        "influence": "",
    }


def _decided(front: Front, decision: Decision) -> str:
    if not decision.cards:
        return "There is nothing to decide yet."
    card = decision.cards[0]
    begin = f"Three models to choose from, by their scores on {front.split} items"
    named = {claim.measure: claim for claim in card.against_experts}
    claim = named.get(MEAN) or next(iter(named.values()), None)
    if claim is None:
        return f"{begin}."
    gap = claim.difference or Interval(claim.value - claim.other, np.nan, np.nan)
    value = _told(claim.measure, gap)
    if claim.difference is None:
        value = value.rpartition(" [")[0]
    what = "the mean" if claim.measure == MEAN else claim.measure
    text = f"{begin}: on {what} the knee lies {value} from the best expert, {claim.against}"
    if claim.probability is not None:
        text += f", and is better with probability {claim.probability:.2f}"
    return f"{text}."


def not_final(history: History) -> str:
    """Why the scores are not final."""
    ended = history.sessions.last_stopped in FINAL
    why = "nothing was scored again" if ended else "it still runs, or was stopped"
    return (
        f"Not final ({phase_of(history)}): {why}. Everything here is by the search's own items, which "
        "flatter what was chosen by them."
    )


def count_of(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def hypervolume_words() -> str:
    """What hypervolume is."""
    return (
        "Hypervolume: the volume that the front dominates, each objective scaled so that the best of base "
        f"and experts is 0 and the worst is 1, up to the reference point {REFERENCE}; more is better."
    )


def slopes_failed_words(history: History) -> str:
    """How many losses and gradients could not be had, and why; empty if all could."""
    failed = len(failed_slopes(history))
    if not failed:
        return ""
    of = failed + measured_slopes(history)
    return f"{failed} of {of} gradients and losses could not be had, mostly {slope_failure(history)}."


def lost_workers(history: History) -> str:
    """How many attempts were lost with their worker; nothing if none was."""
    lost = sum(candidate.attempts_lost for candidate in history.candidates.values())
    attempts = count_of(lost, "attempt")
    return f"{attempts} ended with a lost worker and may have been tried again." if lost else ""


def kinship_words(vectors: dict[str, Any] | None) -> str:
    """The mean cosine between experts, and what it means."""
    if vectors is None or vectors["kinship"] is None:
        return ""
    return (
        f"Model kinship, the mean over all pairs: {vectors['kinship']:.3g}. At 0 two experts learned "
        "unrelated changes."
    )


def conflict_words(signs: dict[str, Any] | None) -> str:
    """How often experts pull a weight to different sides; where from, if it cannot be known here."""
    if signs is None:
        return (
            "Conflicts of signs are read off the experts' files, which do not lie here, or are fewer than "
            "two with task vectors of their own."
        )
    told = "; ".join(
        f"{pair} {100 * large:.0f} % of the large entries, {100 * every:.0f} % of all that both move"
        for pair, (every, large) in zip(signs["pairs"], signs["overall"], strict=True)
        if every is not None and large is not None
    )
    return (
        "Share of the entries that are among the largest fifth of both task vectors and go to different "
        "sides; 50 % is chance. Sampled from rows of each matrix. Over all layers: "
        f"{told or 'no entries in common'}."
    )


def uses_of_test_items(directory: Path) -> str:
    """How often exports have scored test items."""
    use = held_out_use(directory)
    if not use.times:
        return "Test items have not been used."
    times, models = count_of(use.times, "time"), count_of(use.models, "model")
    return f"Test items were scored {times}, on {models}: the more, the less held out."
