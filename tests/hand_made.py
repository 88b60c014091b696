"""Events and histories made by hand, for tests of what is folded from a ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evomerge.ledger.events import (
    AskedCandidate,
    AskedEvent,
    BaselinesEvent,
    CampaignEvent,
    EvaluatedEvent,
    Event,
    FailedEvent,
    PreparedEvent,
    PreparedLayout,
    ToldEvent,
    event_from_json,
)
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.scores import Split, mean_metric

OBJECTIVES = [
    {"metric": "a.acc", "direction": "maximize"},
    {"metric": "b.acc", "direction": "maximize"},
]
Rows = Mapping[str, Sequence[float]]


def begin(**fields: Any) -> list[Event]:
    """The events before the search, with baselines scaled from 0.2 (nadir) to 0.8 (ideal)."""
    layout = PreparedLayout(layers=1, places=(), parameters=0)
    return [
        CampaignEvent(
            time=100.0,
            config={"name": "hand", "seed": 3, "objectives": OBJECTIVES, **fields},
            identity="",
            versions={},
        ),
        PreparedEvent(checkpoints={}, storage="bfloat16", layout=layout, evaluators={}, time=101.0),
        scored("base", {"a.acc": [0.2], "b.acc": [0.2]}),
        scored("math", {"a.acc": [0.8], "b.acc": [0.2]}),
        BaselinesEvent(ideal=(-0.8, -0.8), nadir=(-0.2, -0.2), shown=("base", "math")),
    ]


def asked(generation: int, *names: str) -> AskedEvent:
    """A generation; the genome of `c12` is (12.0,)."""
    candidates = tuple(
        AskedCandidate(id=name, genome=(float(name[1:]),), recipe=f"recipe-{name}") for name in names
    )
    return AskedEvent(generation=generation, candidates=candidates)


def scored(
    name: str, rows: Rows, split: Split = "search", store: ItemStore | None = None, **fields: Any
) -> EvaluatedEvent:
    """Scores; `rows` maps a metric to its per-item results."""
    arrays = {metric: np.array(values, dtype=np.float64) for metric, values in rows.items()}
    items = {}
    if store is not None:
        for evaluator in {metric.split(".")[0] for metric in rows}:
            own = {m: array for m, array in arrays.items() if m.split(".")[0] == evaluator}
            items[evaluator] = store.append(evaluator, own)
    usual: dict[str, Any] = {
        "recipe": f"recipe-{name}",
        "key": f"key-{name}-{split}",
        "seconds": {"merge": 1.0},
    }
    metrics = {metric: mean_metric(array) for metric, array in arrays.items()}
    return EvaluatedEvent(id=name, split=split, metrics=metrics, items=items, **usual | fields)


def failed(name: str, split: Split = "search", **fields: Any) -> FailedEvent:
    """A failure of class nonfinite_weights."""
    usual: dict[str, Any] = {"key": f"key-{name}-{split}", "failure": "nonfinite_weights"}
    recipe = f"recipe-{name}"
    return FailedEvent(id=name, recipe=recipe, split=split, message="layer 3", **usual | fields)


def fold_records(records: Iterable[Mapping[str, Any]]) -> History:
    """The history of a ledger's records."""
    return History.fold(map(event_from_json, records))


def searched(points: Mapping[str, tuple[float, float]], store: ItemStore | None = None) -> History:
    """A history of one generation whose candidates have these accuracies (on 10 items each)."""
    events = [*begin(), asked(0, *points)]
    for name, point in points.items():
        rows = {
            metric: [1.0] * round(10 * value) + [0.0] * (10 - round(10 * value))
            for metric, value in zip(("a.acc", "b.acc"), point, strict=True)
        }
        events.append(scored(name, rows, store=store))
    return History.fold(events)


def searched_in_turn(
    optimizer: Mapping[str, Any], points: Sequence[tuple[float, float]]
) -> list[Event]:
    """One candidate after the other, each told before the next is asked."""
    events = begin(optimizer=optimizer, constraints=[], budget={"plateau": 0.02})
    for number, point in enumerate(points):
        name, hits = f"c{number:05d}", [round(100 * value) for value in point]
        rows = {m: [1.0] * n + [0.0] * (100 - n) for m, n in zip(("a.acc", "b.acc"), hits, strict=True)}
        told = ToldEvent(generation=number, state="s")
        events += [replace(asked(0, name), generation=number), scored(name, rows), told]
    return events
