"""How a search went: hypervolume over evaluations and seconds, what each stage brought, faults, time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.front.selection import distinct
from evomerge.ledger.events import (
    AskedEvent,
    EvaluatedEvent,
    Event,
    FailedEvent,
    RacedEvent,
    ScoredEvent,
    SlopeEvent,
)
from evomerge.ledger.history import Candidate, History
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.pareto import hypervolume, non_dominated

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
        one a
        point; `stages`: names with what each brought; `baselines`: hypervolume of all baselines together.
    """
    bounds = history.bounds()
    spent, stage = 0.0, -1
    names: list[str] = []
    counts: list[int] = []
    steps: list[tuple[float, float, int]] = []
    rows: list[tuple[float, ...] | None] = []
    slopes = last_slopes = asked = next_stage = 0
    size = _stage_size(history)
    for event in events:
        if isinstance(event, SlopeEvent):
            spent += event.cost
            slopes += 1
        elif isinstance(event, AskedEvent):
            if slopes > last_slopes or asked >= next_stage:
                names.append(f"after {slopes} slopes" if slopes > last_slopes else "")
                counts.append(0)
                last_slopes, stage, next_stage = slopes, stage + 1, asked + size
            asked += len(event.candidates)
        elif isinstance(event, ScoredEvent | FailedEvent) and event.split == "search":
            candidate = history.candidates[event.id]
            if candidate.is_baseline:
                continue
            counts[stage] += 1
            spent += _cost(event, history)
            steps.append((spent, event.elapsed or 0.0, stage))
            rows.append(_row(event, objectives, bounds))
    volumes = _volumes(rows, scaling, len(objectives))
    keep = _thinned(len(steps))
    gains = [0.0] * len(names)
    for k, (_, _, own) in enumerate(steps):
        gains[own] += volumes[k] - (volumes[k - 1] if k else 0.0)
    ends = np.cumsum(counts).tolist()
    return {
        "evaluations": [round(steps[k][0], 2) for k in keep],
        "seconds": [round(steps[k][1], 1) for k in keep],
        "hypervolume": [round(volumes[k], 5) for k in keep],
        "stages": [
            {
                "name": f"{end - count + 1}–{end}" + (f", {name}" if name else ""),
                "candidates": count,
                "gain": round(gain, 5),
            }
            for name, count, end, gain in zip(names, counts, ends, gains, strict=True)
            if count
        ],
        "baselines": round(_baselines(history, objectives, scaling), 5),
    }


def _stage_size(history: History) -> int:
    """Candidates of a stage: a population, or several of a long search."""
    population = int(history.config.get("optimizer", {}).get("population") or 1)
    return population * -(-history.asked // (population * MOST_STAGES)) or 1


def _cost(event: ScoredEvent | FailedEvent, history: History) -> float:
    if event.same_as is not None:
        return 0.0
    if isinstance(event, RacedEvent):
        return sum(event.seen.values()) / max(1, history.search_items)
    return 1.0


def _row(
    event: ScoredEvent | FailedEvent, objectives: Sequence[Objective], bounds: Sequence[Any]
) -> tuple[float, ...] | None:
    if not isinstance(event, EvaluatedEvent):
        return None
    outcome = complete(objectives, event.metrics, bounds)
    return None if any(violation > 0 for violation in outcome.violations) else outcome.values


def _volumes(
    rows: Sequence[tuple[float, ...] | None], scaling: Scaling, objectives: int
) -> list[float]:
    """Hypervolume after each row, as it stood at the last of the points that are drawn."""
    wanted = set(_thinned(len(rows)))
    front = np.zeros((0, objectives))
    volumes, volume, stale = [], 0.0, False
    for k, row in enumerate(rows):
        if row is not None:
            point = scaling.scale(np.array([row]))
            if not ((front <= point).all(axis=1)).any():
                front = np.concatenate([front[~(point <= front).all(axis=1)], point])
                stale = True
        if stale and (k in wanted or k == len(rows) - 1):
            volume, stale = hypervolume(front), False
        volumes.append(volume)
    return volumes


def _thinned(count: int) -> list[int]:
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, POINTS))}) if count else []


def _baselines(history: History, objectives: Sequence[Objective], scaling: Scaling) -> float:
    known = [c for c in history.candidates.values() if c.is_baseline and "search" in c.evaluations]
    kept = history.feasible(distinct(known, "search"))
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
