"""Preferences: how much each objective counts where one model is wanted."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence

from evomerge.objectives.objective import Objective

KNEE = "knee"
"""Says that all objectives count alike: under the Chebyshev rule that is the knee of a front."""

REGION = "bounds stand alone, as `optimizer.focus` or as a pick"
"""Where a region of the front is asked for, which a preference cannot say."""


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


def preference(
    objectives: Sequence[Objective], stated: str | Mapping[str, float], *, last_counts: bool = False
) -> tuple[float, ...]:
    """Weights of the objectives, at least 0 and summing to 1.

    Args:
        objectives: those there are.
        stated: `math=0.7,code=0.3` or `knee` (with or without `prefer:` before it), or weights as a mapping;
            an objective that is not named has weight 0.
        last_counts: of an objective that is named twice the last weight is taken, as in ledgers of before
            2026-12; otherwise that is an error.

    Raises:
        ValueError: for an unknown objective or one that is named twice, for weights that are none, and for
            text of another form; it says what was found.
    """
    if isinstance(stated, str) and _plain(stated) == KNEE:
        return (1.0 / len(objectives),) * len(objectives)
    pairs = _pairs(objectives, stated) if isinstance(stated, str) else list(stated.items())
    weights = [0.0] * len(objectives)
    names: dict[int, str] = {}
    for name, value in pairs:
        index = index_of(objectives, name)
        if index in names and not last_counts:
            raise ValueError(_twice(objectives[index].metric, names[index], name))
        names[index] = name
        weights[index] = value
    total = sum(weights)
    if not all(map(math.isfinite, weights)) or min(weights) < 0.0 or total == 0.0:
        raise ValueError(f"weights must be at least 0 and not all 0; found `{stated}`")
    return tuple(weight / total for weight in weights)


def has_bound(text: str) -> bool:
    """Whether a bound stands in text, as in that of a region."""
    return re.search("[<>]", text) is not None


def _plain(text: str) -> str:
    return text.strip().removeprefix("prefer:").strip()


def _pairs(objectives: Sequence[Objective], text: str) -> list[tuple[str, float]]:
    plain = _plain(text)
    if has_bound(plain):
        bound = f"`{plain}` is a bound, and a preference is weights of objectives, {form(objectives)}"
        raise ValueError(f"{bound}; {REGION}")
    found = []
    for part in plain.split(","):
        name, _, value = part.partition("=")
        try:
            found.append((name.strip(), float(value)))
        except ValueError:
            wrong = f"`{part.strip()}` must be NAME=NUMBER"
            raise ValueError(f"{wrong}; a preference is {form(objectives)}, or `{KNEE}`") from None
    return found


def form(objectives: Sequence[Objective]) -> str:
    """What a preference among some objectives may look like."""
    weights = ("0.7", "0.3") if len(objectives) > 1 else ("1",)
    pairs = zip(objectives, weights, strict=False)
    return f"`{','.join(f'{objective.metric}={weight}' for objective, weight in pairs)}`"


def _twice(metric: str, first: str, then: str) -> str:
    same = f"`{first}` is" if first == then else f"`{first}` and `{then}` are"
    meant = "" if first == then else f" one objective, {metric},"
    return f"{same}{meant} stated twice; give each objective one weight"
