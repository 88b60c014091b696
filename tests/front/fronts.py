"""Fronts made by hand, without a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.front.front import Front, Member
from evomerge.objectives.objective import Objective, Scaling
from evomerge.objectives.scores import Metric


def made(
    points: dict[str, tuple[float, ...]],
    error: float = 0.01,
    objectives: Sequence[Objective] = (),
    **fields: Any,
) -> Front:
    """A front of models with these scores, all with one standard error; members are those named `c0...`."""
    count = len(next(iter(points.values())))
    named = tuple(objectives) or tuple(Objective(f"t{n}.acc", "maximize") for n in range(count))
    scaling = Scaling(
        tuple(-1.0 if o.sign < 0 else 0.0 for o in named),
        tuple(0.0 if o.sign < 0 else 1.0 for o in named),
    )

    def member(name: str, values: tuple[float, ...]) -> Member:
        found = {o.metric: Metric(v, error, 100) for o, v in zip(named, values, strict=True)}
        scaled = tuple(v if o.sign > 0 else 1 - v for o, v in zip(named, values, strict=True))
        own = 0.5 if name.startswith("c0") else None
        return Member(name, f"recipe-{name}", {"search": found}, scaled, own)

    every = [member(name, values) for name, values in points.items()]
    usual = {"hypervolume": {"search": 0.5}, "evaluations": len(points), "failures": {}}
    return Front(
        campaign="hand",
        split="search",
        objectives=named,
        members=tuple(m for m in every if m.id.startswith("c0")),
        references=tuple(m for m in every if not m.id.startswith("c0")),
        scaling=scaling,
        **(usual | fields),
    )
