"""How a search went: hypervolume over evaluations and seconds, what each stage brought, faults, time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.campaign.campaign import campaign_from_json
from evomerge.front.selection import distinct
from evomerge.front.trace import spread_out, trace
from evomerge.ledger.bounds import feasible
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import (
    AskedEvent,
    Event,
    ScoredEvent,
    SlopeEvent,
)
from evomerge.ledger.history import History
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.pareto import hypervolume, non_dominated
from evomerge.optimizers.baselines import ENSEMBLE
from evomerge.run.limits import ahead, ahead_text, ended_text, plateau_text

POINTS = 240
"""Most points of a curve."""

MOST_STAGES = 40
MOST_EXAMPLES = 5


def curve(
    history: History,
    events: Sequence[Event],
    objectives: Sequence[Objective],
    scaling: Scaling,
) -> dict[str, Any]:
    """Hypervolume of the non-dominated feasible candidates so far, on search items.

    Returns:
        `evaluations` (spent of the budget, slopes included), `seconds` (running time) and `hypervolume`,
        one a point; `stages`: names with what each brought; `baselines`: hypervolume of all of them.
    """
    points = trace(history, events, objectives, scaling)
    drawn = spread_out(points, POINTS)
    stages = _stages(history, events)
    counts, gains, before = [0] * len(stages), [0.0] * len(stages), 0.0
    of = {name: number for number, (_, names) in enumerate(stages) for name in names}
    for point in points:
        counts[of[point.id]] += 1
        gains[of[point.id]] += point.hypervolume - before
        before = point.hypervolume
    ends = np.cumsum(counts).tolist()
    return {
        "evaluations": [round(point.evaluations, 2) for point in drawn],
        "seconds": [round(point.seconds, 1) for point in drawn],
        "hypervolume": [round(point.hypervolume, 5) for point in drawn],
        "stages": [
            {
                "name": (f"{end - count + 1}–" if count > 1 else "") + f"{end} {name}".rstrip(),
                "candidates": count,
                "gain": round(gain, 5),
            }
            for (name, _), count, end, gain in zip(stages, counts, ends, gains, strict=True)
            if count
        ],
        "baselines": round(_baselines(history, objectives, scaling), 5),
    }


CHOSEN_BY = {"map": "map", "chart": "chart", "genes": "model"}
"""Who chose a batch, in a word beside a bar; see `Forecast`."""


def _stages(history: History, events: Sequence[Event]) -> list[tuple[str, list[str]]]:
    """Name and candidates of each stage: a population's worth or more.

    Cut where slopes were measured, where another part of the optimizer took over, and at a refinement.
    """
    population = int(history.config.get("optimizer", {}).get("population") or 1)
    size = population * max(1, -(-history.asked // (population * MOST_STAGES)))
    stages: list[tuple[str, list[str]]] = []
    slopes = known = 0
    asker: tuple[int | None, int | None, str] = (None, None, "")
    stated = _stated_stages(history)
    for event in events:
        if isinstance(event, SlopeEvent):
            slopes += event.failure is None
        elif isinstance(event, AskedEvent):
            by = CHOSEN_BY.get(event.forecast.by, "") if event.forecast is not None else ""
            by = by if event.stage is None else stated[event.stage]
            now = (event.refinement, event.stage, by or asker[2])
            if slopes > known or now != asker or not stages or len(stages[-1][1]) >= size:
                refined = "refined" if event.refinement is not None else ""
                stages.append((refined or by or (f"({slopes} slopes)" if slopes > known else ""), []))
                known = slopes
            asker = now
            stages[-1][1].extend(candidate.id for candidate in event.candidates)
    return stages


def _stated_stages(history: History) -> list[str]:
    """What each of the campaign file's stages searches, and how."""
    stated = campaign_from_json(history.config).stages if history.config.get("stages") else ()
    return [f"{stage.searches}, {stage.kind}" for stage in stated]


def stage_words(history: History, events: Sequence[Event]) -> str:
    """What the words beside the bars mean, as far as there are such."""
    said = {CHOSEN_BY.get(e.forecast.by) for e in events if isinstance(e, AskedEvent) and e.forecast}
    found = ["map: points of the learned front"] if "map" in said else []
    found += ["chart: a model's choice on it"] if "chart" in said else []
    found += ["model: a model's choice among all genomes"] if "model" in said else []
    found += ["refined: asked near a preference"] if history.refinements else []
    if any(isinstance(e, AskedEvent) and e.stage is not None for e in events):
        found.append("after the numbers, what a stage searched and by which optimizer")
    return f"; {'; '.join(found)}" if found else ""


def forecast_words(history: History) -> str:
    """That a plateau ended the search, or what was expected of the last candidates asked; may be empty."""
    if history.stopped == "plateau":
        return f"The search was ended by {ended_text('plateau', plateau=plateau_text(history))}."
    found = ahead(history)
    return "" if found is None else f"{ahead_text(found).capitalize()}."


def _baselines(history: History, objectives: Sequence[Objective], scaling: Scaling) -> float:
    models = [c for c in history.candidates.values() if c.is_baseline and c.id != ENSEMBLE]
    known = [c for c in models if "search" in c.evaluations]
    kept = feasible(history, distinct(known, "search"))
    if not kept:
        return 0.0
    values = np.array([complete(objectives, c.evaluations["search"].metrics).values for c in kept])
    return hypervolume(scaling.scale(values[non_dominated(values)]))


def seconds_by_phase(events: Sequence[Event]) -> list[tuple[str, str, float]]:
    """(part of the campaign, phase of a job, seconds of all workers together), in order of appearance."""
    found: dict[tuple[str, str], float] = {}
    searching = False
    for event in events:
        if isinstance(event, AskedEvent):
            searching = True
        if isinstance(event, SlopeEvent):
            part = "slopes"
        elif isinstance(event, ScoredEvent):
            part = "baselines" if not searching else "search"
            if event.split == "selection":
                part = "selection"
        else:
            continue
        for phase, seconds in event.seconds.items():
            found[part, phase] = found.get((part, phase), 0.0) + seconds
    return [(part, phase, round(seconds, 2)) for (part, phase), seconds in found.items()]


def faults(history: History) -> list[dict[str, Any]]:
    """Raced and failed candidates by class, most first: how many, a few ids, messages and their numbers."""
    classes: dict[str, list[tuple[str, str]]] = {}
    for candidate in history.candidates.values():
        if candidate.failure is not None:
            classes.setdefault(candidate.failure, []).append((candidate.id, candidate.message))
        elif candidate.raced is not None:
            classes.setdefault("raced", []).append((candidate.id, _raced(history, candidate)))
    found = []
    for name, own in sorted(classes.items(), key=lambda pair: -len(pair[1])):
        messages: dict[str, int] = {}
        for _, message in own:
            messages[message] = messages.get(message, 0) + 1
        common = sorted(messages.items(), key=lambda pair: -pair[1])
        found.append(
            {
                "class": name,
                "count": len(own),
                "ids": [candidate for candidate, _ in own[:MOST_EXAMPLES]],
                "messages": common[:MOST_EXAMPLES],
                "more": max(0, len(common) - MOST_EXAMPLES),
            }
        )
    return found


def _raced(history: History, candidate: Candidate) -> str:
    share = sum(candidate.seen.values()) / max(1, history.search_items)
    tenth = 10 * round(10 * share)
    return f"{candidate.beaten_by} was better on every task after about {tenth} % of the items"
