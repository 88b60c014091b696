"""Constraints: what a candidate must keep, whatever its objectives say.

Written as `METRIC >= VALUE` or `METRIC <= 1.1 x base`, where the model a bound refers to is the base or an
expert. Optimizers take them as constraints (Deb 2002, section VI: feasible before infeasible, less violation
before more), never as penalties on objectives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from evomerge.objectives.scores import Metric

Relation = Literal[">=", "<="]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
"""A number as people write it, as a regular expression without groups."""
_FORM = re.compile(
    rf"\s*(?P<metric>[^\s<>=]+)\s*(?P<relation>>=|<=)\s*"
    rf"(?:(?P<number>{NUMBER})(?:\s*[x*]\s*(?P<of>[A-Za-z0-9_-]+))?|(?P<alone>[A-Za-z][A-Za-z0-9_-]*))\s*"
)


@dataclass(frozen=True)
class Bound:
    """A constraint whose bound is a number: `value` of `metric` must be on the right side of it."""

    metric: str
    relation: Relation
    value: float

    def violation(self, metrics: Mapping[str, Metric]) -> float:
        """How far the bound is missed, as a share of the bound's size; at most 0 where it is kept.

        Shares of different metrics can be added (Deb 2000). A bound of 0 has no size: its difference
        counts as it is.

        Raises:
            KeyError: if the metric was not measured.
        """
        difference = metrics[self.metric].value - self.value
        excess = difference if self.relation == "<=" else -difference
        return excess / (abs(self.value) or 1.0)

    def is_kept(self, metrics: Mapping[str, Metric]) -> bool:
        """Whether the measured value keeps the bound."""
        return self.violation(metrics) <= 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"metric": self.metric, "relation": self.relation, "value": self.value}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Bound:
        """Read what `to_json` wrote."""
        return Bound(data["metric"], data["relation"], float(data["value"]))

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.value:.6g}"


@dataclass(frozen=True)
class Constraint:
    """A constraint as written: the bound is `number`, or `number` times the metric of model `of`."""

    metric: str
    relation: Relation
    number: float
    of: str | None = None

    def bound(self, metrics: Mapping[str, Mapping[str, Metric]]) -> Bound:
        """The bound as a number, from the metrics of base and experts by name.

        Raises:
            KeyError: if that model or metric was not measured.
        """
        scale = 1.0 if self.of is None else metrics[self.of][self.metric].value
        return Bound(self.metric, self.relation, self.number * scale)

    def __str__(self) -> str:
        factor = "" if self.of is None else f" x {self.of}"
        return f"{self.metric} {self.relation} {self.number:g}{factor}"


def parse_constraint(text: str) -> Constraint:
    """Read `METRIC >= NUMBER`, `METRIC <= NUMBER x MODEL` or `METRIC >= MODEL`.

    Raises:
        ValueError: (E108, words), if it has another form; (E109, words), if the number is not finite.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        wrong = "a constraint is `METRIC >= VALUE`, `METRIC <= VALUE` or `METRIC <= 1.1 x base`"
        raise ValueError("E108", wrong)
    relation: Relation = ">=" if match["relation"] == ">=" else "<="
    number = float(match["number"] or 1.0)
    if not math.isfinite(number):
        raise ValueError("E109", "the bound must be finite")
    return Constraint(match["metric"], relation, number, match["of"] or match["alone"])


def _readable(text: str) -> str:
    parse_constraint(text)
    return text


ConstraintText = Annotated[str, AfterValidator(_readable)]
"""A constraint in a campaign file, kept as written."""


def faults_between(texts: Sequence[Any], models: Sequence[str]) -> list[tuple[int, str, str]]:
    """Faults of constraints beside each other: (index, code, what is wrong).

    E130 the same metric bounded twice on one side, E133 a model that is neither base nor expert, E110 two
    numbers that leave nothing between them. What cannot be read is left to its own fault.
    """
    faults: list[tuple[int, str, str]] = []
    seen: dict[tuple[str, str], Constraint] = {}
    for index, text in enumerate(texts):
        try:
            found = parse_constraint(text)
        except (ValueError, TypeError):
            continue
        if found.of is not None and found.of not in ("base", *models):
            wrong = f"`{found.of}` is neither the base nor an expert ({', '.join(models)})"
            faults.append((index, "E133", wrong))
        if (found.metric, found.relation) in seen:
            faults.append((index, "E130", f"{found.metric} has two bounds {found.relation}"))
            continue
        seen[found.metric, found.relation] = found
        other = seen.get((found.metric, "<=" if found.relation == ">=" else ">="))
        if other is None or other.of is not None or found.of is not None:
            continue
        low, high = sorted((found, other), key=lambda each: each.relation, reverse=True)
        if low.number > high.number:
            faults.append((index, "E110", f"no value keeps both `{other}` and `{found}`"))
    return faults


def violations(bounds: Sequence[Bound], metrics: Mapping[str, Metric]) -> tuple[float, ...]:
    """The violation of each bound, in order."""
    return tuple(bound.violation(metrics) for bound in bounds)


def excess(bounds: Sequence[Bound], metrics: Mapping[str, Metric]) -> float:
    """Total violation; 0 where all bounds are kept."""
    return math.fsum(max(each, 0.0) for each in violations(bounds, metrics))


def broken(bounds: Sequence[Bound], metrics: Mapping[str, Metric]) -> list[Bound]:
    """The bounds that are not kept."""
    return [bound for bound in bounds if not bound.is_kept(metrics)]
