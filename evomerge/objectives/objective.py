"""Objectives: a metric and a direction; outcomes: what an optimizer is told.

The only place with a minus sign: optimizers minimise, people read metrics as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from evomerge.objectives.constraint import Bound, violations
from evomerge.objectives.scores import Metric

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Objective:
    """One metric to maximise or minimise."""

    metric: str
    direction: Direction

    @property
    def sign(self) -> float:
        """+1 if minimised, -1 if maximised."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True)
class Complete:
    """A scored candidate.

    `values`, `errors`: one per objective, in minimised form; `violations`: one per constraint, above 0
    where it is broken; `smooth`: one per objective, minimised form, None where it has no smooth value (empty
    if none has); `items`: one array per objective, the score of every search item, larger is better, for
    optimizers that look at items, and where all metrics have some.
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]
    violations: tuple[float, ...] = ()
    smooth: tuple[float | None, ...] = ()
    items: tuple[np.ndarray, ...] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Raced:
    """A candidate given up after `items` items; `bound` is its optimistic value, minimised form."""

    items: int
    bound: tuple[float, ...]


@dataclass(frozen=True)
class Failed:
    """A candidate without scores; `failure` is its class, for example `nonfinite_weights`."""

    failure: str


Outcome = Complete | Raced | Failed

OPTIMISTIC = 1.645
"""Standard errors by which a raced candidate's bound is better than what was measured (one-sided 95 %)."""


def complete(
    objectives: Sequence[Objective], metrics: Mapping[str, Metric], bounds: Sequence[Bound] = ()
) -> Complete:
    """The outcome of measured metrics, in the order of the objectives and bounds.

    Raises:
        KeyError: if the metric of an objective or bound was not measured.
    """
    chosen = [metrics[objective.metric] for objective in objectives]
    smooth = tuple(
        None if m.smooth is None else o.sign * m.smooth for o, m in zip(objectives, chosen, strict=True)
    )
    return Complete(
        values=tuple(o.sign * m.value for o, m in zip(objectives, chosen, strict=True)),
        errors=tuple(m.stderr for m in chosen),
        violations=violations(bounds, metrics),
        smooth=smooth if any(value is not None for value in smooth) else (),
    )


def raced(objectives: Sequence[Objective], metrics: Mapping[str, Metric], items: int) -> Raced:
    """The outcome of a candidate given up after `items` items, from what was measured until then.

    Raises:
        KeyError: if an objective's metric was not measured.
    """
    found = complete(objectives, metrics)
    bound = (v - OPTIMISTIC * e for v, e in zip(found.values, found.errors, strict=True))
    return Raced(items, tuple(bound))


@dataclass(frozen=True)
class Scaling:
    """Ideal and nadir per objective (minimised form), from the base and the experts on search items.

    `scale` maps values so that the ideal is 0 and the nadir 1; values below 0 beat every expert.
    """

    ideal: tuple[float, ...]
    nadir: tuple[float, ...]

    @staticmethod
    def from_values(values: np.ndarray) -> Scaling:
        """From float64 [models, objectives] in minimised form (base and experts)."""
        return Scaling(tuple(values.min(axis=0).tolist()), tuple(values.max(axis=0).tolist()))

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scaled float64 [n, objectives].

        An objective on which base and experts agree is divided by its size, but at least by 1: a model of
        twice as many parameters is at 1, a fraction stays what it is.
        """
        ideal, nadir = np.asarray(self.ideal), np.asarray(self.nadir)
        span = nadir - ideal
        alike = np.maximum(1.0, np.abs(ideal))
        scaled: np.ndarray = (np.asarray(values, dtype=np.float64) - ideal) / np.where(
            span > 0, span, alike
        )
        return scaled
