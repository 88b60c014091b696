"""How a search went: hypervolume and the best scores after each result, against what was spent."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.ledger.events import EvaluatedEvent, Event, FailedEvent, RacedEvent, SlopeEvent
from evomerge.ledger.history import History
from evomerge.objectives.objective import Objective, complete
from evomerge.objectives.pareto import hypervolume

BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class TracePoint:
    """Where a search stood after one result.

    Attributes:
        id: of the candidate that gave it.
        evaluations: budget spent, slopes included.
        items: answered by all candidates so far; those of slopes are in `evaluations` only.
        seconds: running time, without the pauses between sessions.
        hypervolume: of the search scores that keep all constraints.
        best: per objective the best of these, in its metric's units; None before there is one.
    """

    id: str
    evaluations: float
    items: int
    seconds: float
    hypervolume: float
    best: tuple[float | None, ...]


def trace(
    history: History, events: Sequence[Event], objectives: Sequence[Objective]
) -> list[TracePoint]:
    """One point for each result of the search: a score, a candidate given up, a failure.

    Empty before the baselines, which scale the hypervolume, are known.
    """
    scaling = history.scaling
    if scaling is None:
        return []
    bounds, whole = history.bounds(), history.search_items
    spent, items, volume = 0.0, 0, 0.0
    front = np.zeros((0, len(objectives)))
    best: list[float | None] = [None] * len(objectives)
    points = []
    for event in events:
        if isinstance(event, SlopeEvent):
            spent += event.cost
            continue
        if not isinstance(event, EvaluatedEvent | RacedEvent | FailedEvent) or event.split != "search":
            continue
        if history.candidates[event.id].is_baseline:
            continue
        if event.same_as is None:
            answered = whole
            if isinstance(event, RacedEvent):
                answered = sum(event.seen.values())
            elif isinstance(event, FailedEvent):
                answered = 0
            items += answered
            spent += answered / whole if isinstance(event, RacedEvent) and whole else 1.0
        if isinstance(event, EvaluatedEvent):
            outcome = complete(objectives, event.metrics, bounds)
            if not any(violation > 0 for violation in outcome.violations):
                row = scaling.scale(np.array([outcome.values]))
                best = [
                    _better(o, old, v)
                    for o, old, v in zip(objectives, best, outcome.values, strict=True)
                ]
                if not (front <= row).all(axis=1).any():
                    front = np.concatenate([front[~(row <= front).all(axis=1)], row])
                    volume = hypervolume(front)
        points.append(
            TracePoint(event.id, round(spent, 4), items, event.elapsed or 0.0, volume, tuple(best))
        )
    return points


def _better(objective: Objective, old: float | None, minimised: float) -> float:
    value = objective.sign * minimised
    if old is None:
        return value
    return max(old, value) if objective.sign < 0 else min(old, value)


def spread_out(points: Sequence[TracePoint], most: int) -> list[TracePoint]:
    """At most `most` points, evenly, the first and the last among them."""
    if not points:
        return []
    chosen = sorted({round(x) for x in np.linspace(0, len(points) - 1, min(len(points), most))})
    return [points[index] for index in chosen]


def sparkline(values: Sequence[float], width: int) -> str:
    """Numbers as a line of blocks, from the lowest to the highest of them; the last of each column counts."""
    if not values:
        return ""
    count = min(width, len(values))
    ends = [round((column + 1) * len(values) / count) - 1 for column in range(count)]
    kept = np.array([values[end] for end in ends], dtype=np.float64)
    low, high = min(values), max(values)
    share = (kept - low) / (high - low) if high > low else np.zeros(count)
    return "".join(BLOCKS[round(float(x) * (len(BLOCKS) - 1))] for x in share)


def trace_records(
    points: Sequence[TracePoint], objectives: Sequence[Objective]
) -> tuple[list[str], list[list[Any]]]:
    """Column names, and a row for each point."""
    head = ["id", "evaluations", "items", "seconds", "hypervolume"]
    head += [f"best {objective.metric}" for objective in objectives]
    rows = [[p.id, p.evaluations, p.items, p.seconds, p.hypervolume, *p.best] for p in points]
    return head, rows


def trace_csv(points: Sequence[TracePoint], objectives: Sequence[Objective]) -> str:
    """`trace_records` as CSV, numbers with all their digits."""
    head, rows = trace_records(points, objectives)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(
        ["" if v is None else v if isinstance(v, str) else repr(v) for v in r] for r in rows
    )
    return out.getvalue()
