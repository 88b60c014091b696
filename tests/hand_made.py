"""Events and histories made by hand, for tests of what is folded from a ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.scores import mean_metric

OBJECTIVES = [
    {"metric": "a.acc", "direction": "maximize"},
    {"metric": "b.acc", "direction": "maximize"},
]
Rows = Mapping[str, Sequence[float]]


def begin(**fields: Any) -> list[dict[str, Any]]:
    """The events before the search, with baselines scaled from 0.2 (nadir) to 0.8 (ideal)."""
    return [
        {
            "event": "campaign",
            "time": 100.0,
            "config": {"name": "hand", "seed": 3, "objectives": OBJECTIVES, **fields},
            "versions": {},
        },
        {"event": "prepared", "checkpoints": {}, "time": 101.0},
        scored("base", {"a.acc": [0.2], "b.acc": [0.2]}),
        scored("math", {"a.acc": [0.8], "b.acc": [0.2]}),
        {
            "event": "baselines",
            "ideal": [-0.8, -0.8],
            "nadir": [-0.2, -0.2],
            "single": None,
            "shown": ["base", "math"],
        },
    ]


def asked(generation: int, *names: str) -> dict[str, Any]:
    """A generation; the genome of `c12` is (12.0,)."""
    return {
        "event": "asked",
        "generation": generation,
        "candidates": [{"id": n, "genome": [float(n[1:])], "recipe": f"recipe-{n}"} for n in names],
    }


def scored(
    name: str, rows: Rows, split: str = "search", store: ItemStore | None = None, **fields: Any
) -> dict[str, Any]:
    """An `evaluated` event; `rows` maps a metric to its per-item results."""
    arrays = {metric: np.array(values, dtype=np.float64) for metric, values in rows.items()}
    items = {}
    if store is not None:
        for evaluator in {metric.split(".")[0] for metric in rows}:
            own = {m: array for m, array in arrays.items() if m.split(".")[0] == evaluator}
            items[evaluator] = store.append(evaluator, own)
    return {
        "event": "evaluated",
        "id": name,
        "recipe": f"recipe-{name}",
        "split": split,
        "key": f"key-{name}-{split}",
        "metrics": {metric: mean_metric(array).to_json() for metric, array in arrays.items()},
        "items": items,
        "seconds": {"merge": 1.0},
        **fields,
    }


def failed(name: str, split: str = "search", **fields: Any) -> dict[str, Any]:
    """A `failed` event of class nonfinite_weights."""
    return {
        "event": "failed",
        "id": name,
        "recipe": f"recipe-{name}",
        "split": split,
        "key": f"key-{name}-{split}",
        "failure": "nonfinite_weights",
        "message": "layer 3",
        **fields,
    }


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
