"""Scores: what an evaluator says of one model, with standard errors and per-item results.

Plain data and NumPy, so that the driver can read scores without torch or lm-eval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Split = Literal["search", "selection", "test"]
SPLITS: tuple[Split, ...] = ("search", "selection", "test")


@dataclass(frozen=True)
class Metric:
    """A value with its standard error and the number of items it was measured on.

    `smooth` is the mean over items of a smooth value in the same direction as `value`, where the evaluator
    has one (for multiple choice the mean of tanh(m / 2), m the margin of the right choice): less noisy than
    zeros and ones, so that a search may steer by it. It decides and is shown nowhere as quality.
    """

    value: float
    stderr: float
    items: int
    smooth: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"value": self.value, "stderr": self.stderr, "items": self.items}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Metric:
        """Read what `to_json` wrote."""
        return Metric(float(data["value"]), float(data["stderr"]), int(data["items"]))


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on one split.

    Attributes:
        metrics: `EVALUATOR.METRIC` (for example `math.acc`) to its `Metric`.
        items: the same names to float64 [items] arrays of per-item results, in the evaluator's fixed
            item order; a metric that is no mean over items has no entry.
        smooth: the same names to float64 [items] arrays of smooth per-item values, where there are any.
    """

    metrics: dict[str, Metric]
    items: dict[str, np.ndarray] = field(default_factory=dict)
    smooth: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = (
            f"{n} {m.value:.4g} ± {m.stderr:.2g} ({m.items} items)" for n, m in self.metrics.items()
        )
        return f"<Scores {', '.join(found)}>"

    def non_finite(self) -> list[str]:
        """Names of the metrics whose value, standard error or per-item results are not finite numbers."""
        bad = {n for n, m in self.metrics.items() if not math.isfinite(m.value + m.stderr)}
        bad |= {name for name, values in self.items.items() if not np.isfinite(values).all()}
        return sorted(bad)


def mean_metric(values: np.ndarray) -> Metric:
    """Mean of float [items] results with the sample standard error (0 for a single item)."""
    count = len(values)
    spread = float(np.std(values, ddof=1)) if count > 1 else 0.0
    return Metric(float(np.mean(values)), spread / math.sqrt(max(count, 1)), count)
