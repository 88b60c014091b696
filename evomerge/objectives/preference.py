"""Preferences: how much each objective counts where one model is wanted."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from evomerge.objectives.objective import Objective

KNEE = "knee"
"""Says that all objectives count alike: under the Chebyshev rule that is the knee of a front."""


def index_of(objectives: Sequence[Objective], name: str) -> int:
    """Which objective a person means, by its metric or by its evaluator alone where that is enough.

    Raises:
        ValueError: there is none, or more than one.
    """
    metrics = [objective.metric for objective in objectives]
    if name in metrics:
        return metrics.index(name)
    short = [index for index, metric in enumerate(metrics) if metric.split(".")[0] == name]
    if len(short) == 1:
        return short[0]
    wrong = f"`{name}` is {'more than one' if short else 'no'} objective"
    near = difflib.get_close_matches(name, metrics, n=1)
    todo = f"; did you mean `{near[0]}`?" if near and not short else ""
    raise ValueError(f"{wrong}; objectives: {', '.join(metrics)}{todo}")


def preference(objectives: Sequence[Objective], stated: str | Mapping[str, float]) -> tuple[float, ...]:
    """Weights of the objectives, at least 0 and summing to 1.

    Args:
        objectives: those there are.
        stated: `math=0.7,code=0.3` (with or without `prefer:` before it), the same as a mapping, or `knee`;
            an objective that is not named has weight 0.

    Raises:
        ValueError: for an unknown objective, or weights that are none; it says what was found.
    """
    if stated == KNEE:
        return (1.0 / len(objectives),) * len(objectives)
    pairs = _pairs(stated) if isinstance(stated, str) else dict(stated)
    weights = [0.0] * len(objectives)
    for name, value in pairs.items():
        weights[index_of(objectives, name)] = value
    total = sum(weights)
    if not all(map(math.isfinite, weights)) or min(weights) < 0.0 or total == 0.0:
        raise ValueError(f"weights must be at least 0 and not all 0; found `{stated}`")
    return tuple(weight / total for weight in weights)


def _pairs(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.removeprefix("prefer:").split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"`{part}` must be NAME=NUMBER") from None
    return found
