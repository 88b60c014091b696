"""Which metrics can be averaged, a model's mean and worst score, and what kind of baseline one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import Metric

ACCURACIES = ("acc", "exact_match", "em", "pass@", "f1")
"""How names of metrics begin that are fractions and read better as percent."""

MEAN, WORST = "mean", "worst"
"""Names of the two measures over all objectives, beside those of metrics."""

BaselineKind = Literal["base", "expert", "average", "soup", "single", "ensemble"]


def is_fraction(metric: str) -> bool:
    """Whether a metric (`math.acc`, or a measure over such) is a fraction that is shown as percent."""
    return metric in (MEAN, WORST) or metric.partition(".")[2].startswith(ACCURACIES)


def as_share(metric: str, value: float) -> str:
    """The share of 1 that a bound in percent means; empty where it is none, or the metric no fraction."""
    return f"{value / 100:g}" if is_fraction(metric) and 1 < value <= 100 else ""


def alike(objectives: Sequence[Objective]) -> bool:
    """Whether all objectives are fractions to maximise, so that their scores may be averaged as they are."""
    return all(o.direction == "maximize" and is_fraction(o.metric) for o in objectives)


def mean_score(objectives: Sequence[Objective], metrics: Mapping[str, Metric]) -> float | None:
    """Mean of the objectives; None where they are not alike or one was not measured."""
    values = _values(objectives, metrics)
    return None if values is None else sum(values) / len(values)


def worst_score(objectives: Sequence[Objective], metrics: Mapping[str, Metric]) -> float | None:
    """The lowest of the objectives; None where they are not alike or one was not measured."""
    values = _values(objectives, metrics)
    return None if values is None else min(values)


def baseline_kind(name: str) -> BaselineKind:
    """What kind of baseline an id names; experts may not take the names of the others."""
    if name == "base":
        return "base"
    if name == "uniform":
        return "average"
    if name == "ensemble":
        return "ensemble"
    if name.startswith("soup-") and "+" in name:  # which no expert's name may have
        return "soup"
    return "single" if name.startswith("single-") else "expert"


def _values(objectives: Sequence[Objective], metrics: Mapping[str, Metric]) -> list[float] | None:
    if not alike(objectives) or any(o.metric not in metrics for o in objectives):
        return None
    return [metrics[o.metric].value for o in objectives]
