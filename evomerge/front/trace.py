"""How a search went: hypervolume and the best scores after each result, against what was spent."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import EvaluatedEvent, Event, FailedEvent, RacedEvent, SlopeEvent
from evomerge.ledger.history import History
from evomerge.objectives.constraint import Bound
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.origin import MEAN
from evomerge.objectives.pareto import hypervolume
from evomerge.objectives.scores import Metric
from evomerge.search_space.similarity import kinship

BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class TracePoint:
    """Where a search stood after one result.

    Attributes:
        id: of the candidate that gave it.
        evaluations: budget spent, slopes included, and nothing for what was free.
        items: of all candidates so far that were paid for; those of slopes are in `evaluations` only.
        seconds: running time, without the pauses between sessions.
        hypervolume: of the search scores that keep all constraints.
        best: per objective the best of these, in its metric's units; None before there is one.
        kinship: how akin the two candidates were of which it is the mean; None of what is no mean of two.
    """

    id: str
    evaluations: float
    items: int
    seconds: float
    hypervolume: float
    best: tuple[float | None, ...]
    kinship: float | None = None


def trace(
    history: History,
    events: Sequence[Event],
    objectives: Sequence[Objective],
    scaling: Scaling | None = None,
) -> list[TracePoint]:
    """One point for each result of the search: a score, a candidate given up, a failure.

    Empty before the baselines, which scale the hypervolume, are known. `scaling`: of another campaign, to
    compare with it.
    """
    scaling = scaling or history.scaling
    if scaling is None:
        return []
    whole, spent, items = history.search_items, 0.0, 0
    found = BestSoFar(tuple(objectives), scaling, bounds_of(history))
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
            if not history.candidates[event.id].is_free:
                items += answered
                spent += answered / whole if isinstance(event, RacedEvent) and whole else 1.0
        if isinstance(event, EvaluatedEvent):
            found.add(event.metrics)
        seconds = event.elapsed or 0.0
        akin = _parents_kinship(history, history.candidates[event.id])
        spot = TracePoint(
            event.id, round(spent, 4), items, seconds, found.hypervolume, found.best, akin
        )
        points.append(spot)
    return points


def _parents_kinship(history: History, candidate: Candidate) -> float | None:
    """By the optimizer's own similarity of coefficients; near 1 they were of the same stock."""
    origin = candidate.origin
    if origin is None or origin.how != MEAN or len(origin.parents or ()) != 2:
        return None
    genomes = [history.candidates[name].genome for name in origin.parents or ()]
    one, other = (np.array([genome], dtype=np.float64) for genome in genomes)
    options = history.config["optimizer"].get("options", {})
    found = kinship(one, other, options.get("similarity", "cosine"))
    return round(float(found[0, 0]), 6)


class BestSoFar:
    """Hypervolume and best scores of models that keep all bounds, as they come in.

    `best`: per objective, in its metric's units, None before there is one.
    """

    def __init__(
        self, objectives: tuple[Objective, ...], scaling: Scaling, bounds: Sequence[Bound]
    ) -> None:
        self.objectives, self.scaling, self.bounds = objectives, scaling, bounds
        self.hypervolume = 0.0
        self.best: tuple[float | None, ...] = (None,) * len(objectives)
        self._front = np.zeros((0, len(objectives)))

    def add(self, metrics: Mapping[str, Metric]) -> None:
        """Take in the scores of one more model."""
        outcome = complete(self.objectives, metrics, self.bounds)
        if any(violation > 0 for violation in outcome.violations):
            return
        pairs = zip(self.objectives, self.best, outcome.values, strict=True)
        self.best = tuple(_better(objective, old, value) for objective, old, value in pairs)
        row = self.scaling.scale(np.array([outcome.values]))
        front = self._front
        if not np.any(np.all(front <= row, axis=1)):
            self._front = np.concatenate([front[~np.all(row <= front, axis=1)], row])
            self.hypervolume = hypervolume(self._front)


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
    """Column names, and a row for each point; a last column with parents' kinship where any has it."""
    head = ["id", "evaluations", "items", "seconds", "hypervolume"]
    head += [f"best {objective.metric}" for objective in objectives]
    rows = [[p.id, p.evaluations, p.items, p.seconds, p.hypervolume, *p.best] for p in points]
    if any(point.kinship is not None for point in points):
        head.append("kinship of parents")
        rows = [[*row, point.kinship] for row, point in zip(rows, points, strict=True)]
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
