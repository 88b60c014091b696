"""Scores: what an evaluator says of one model, with standard errors and per-item results.

Plain data and NumPy, so that the driver can read scores without torch or lm-eval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Split = Literal["search", "selection", "test"]
SPLITS: tuple[Split, ...] = ("search", "selection", "test")

SMOOTH = "~smooth"
"""Ends the name of an array of smooth values where it lies beside the results of a metric."""


@dataclass(frozen=True, slots=True)
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
        """As plain JSON data; without `smooth` where there is none."""
        data = {"value": self.value, "stderr": self.stderr, "items": self.items}
        return data if self.smooth is None else data | {"smooth": self.smooth}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Metric:
        """Read what `to_json` wrote."""
        smooth = data.get("smooth")
        return Metric(
            value=float(data["value"]),
            stderr=float(data["stderr"]),
            items=int(data["items"]),
            smooth=None if smooth is None else float(smooth),
        )


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on one split.

    Attributes:
        metrics: `EVALUATOR.METRIC` (for example `math.acc`) to its `Metric`.
        items: the same names to float64 [items] arrays of per-item results, in the evaluator's fixed
            item order; a metric that is no mean over items has no entry.
        smooth: the same names to float64 [items] arrays of smooth per-item values, where there are any; each
            runs in the direction of its metric, so that of a loss it is less for a better model.
    """

    metrics: dict[str, Metric]
    items: dict[str, np.ndarray] = field(default_factory=dict)
    smooth: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = (
            f"{n} {m.value:.4g} ± {m.stderr:.2g} ({m.items} items)" for n, m in self.metrics.items()
        )
        return f"<Scores {', '.join(found)}>"

    def with_smooth(self, smooth: Mapping[str, np.ndarray]) -> Scores:
        """These scores with smooth values, metric to float [items], and their means in the metrics.

        Kept to float32, which a model's logits have. Left out are those of a metric that was not measured,
        and those of which one is not finite: they must not fail a model whose metrics are sound.
        """
        kept = {n: v.astype(np.float32).astype(np.float64) for n, v in smooth.items()}
        kept = {n: v for n, v in kept.items() if n in self.metrics and np.isfinite(v).all()}
        means = {n: replace(self.metrics[n], smooth=float(np.mean(v))) for n, v in kept.items()}
        return replace(self, metrics=self.metrics | means, smooth=kept)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known by item, as it is stored: results by metric, smooth values by `METRIC~smooth`."""
        return self.items | {f"{name}{SMOOTH}": values for name, values in self.smooth.items()}

    def non_finite(self) -> list[str]:
        """Names of the metrics whose value, standard error or per-item results are not finite numbers."""
        bad = {n for n, m in self.metrics.items() if not math.isfinite(m.value + m.stderr)}
        bad |= {name for name, values in self.items.items() if not np.isfinite(values).all()}
        return sorted(bad)


def apart(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Results and smooth values, both by metric, of what `Scores.arrays` put together."""
    smooth = {n.removesuffix(SMOOTH): v for n, v in arrays.items() if n.endswith(SMOOTH)}
    return {n: v for n, v in arrays.items() if not n.endswith(SMOOTH)}, smooth


def mean_metric(values: np.ndarray) -> Metric:
    """Mean of float [items] results with the sample standard error (0 for a single item)."""
    count = len(values)
    spread = float(np.std(values, ddof=1)) if count > 1 else 0.0
    return Metric(float(np.mean(values)), spread / math.sqrt(max(count, 1)), count)
