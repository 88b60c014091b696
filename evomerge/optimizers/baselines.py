"""Baselines: what a front has to beat, evaluated before the search and at no cost to its budget.

The base, every expert, the uniform average and merges with one coefficient for all experts
(`base + c * sum of task vectors`). Ideal and nadir of every objective come from base and experts on
search items; the best single coefficient is chosen there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from evomerge.errors import Problem
from evomerge.ledger.events import BaselinesEvent
from evomerge.objectives.constraint import Constraint
from evomerge.objectives.objective import Objective, Scaling, complete
from evomerge.objectives.scores import Metric
from evomerge.recipe.recipe import (
    AS_BASE,
    CheckpointSource,
    ModelForm,
    Recipe,
    checkpoint_recipe,
    single_coefficient_recipe,
)

UNIFORM = "uniform"

SAME_ORDER = 0.999
"""Correlation from which two objectives count as one."""

FEWEST_POINTS = 4
"""Models below which a correlation says nothing: of two it is always 1."""


def baseline_recipes(
    sources: Mapping[str, CheckpointSource],
    experts: Sequence[str],
    coefficients: Sequence[float],
    layers: int,
    dtype: str,
    form: ModelForm = AS_BASE,
) -> dict[str, Recipe]:
    """Id to recipe, in the order in which they are evaluated.

    They have the `form` of the campaign.
    Ids are `base`, the experts' names, `uniform` and `single-C` for each coefficient C.
    """
    recipes = {name: checkpoint_recipe(sources, name, layers, dtype) for name in ("base", *experts)}
    share = 1.0 / len(experts)
    recipes[UNIFORM] = single_coefficient_recipe(sources, experts, share, layers, dtype)
    for coefficient in coefficients:
        recipe = single_coefficient_recipe(sources, experts, coefficient, layers, dtype)
        recipes[f"single-{coefficient:g}"] = recipe
    return {name: form.given(recipe, sources) for name, recipe in recipes.items()}


def freeze(
    objectives: Sequence[Objective],
    metrics: Mapping[str, Mapping[str, Metric]],
    experts: Sequence[str],
    constraints: Sequence[Constraint] = (),
) -> BaselinesEvent:
    """What the search is measured by: scaling, the best single coefficient, the ids tables show, bounds.

    Args:
        objectives: in campaign order.
        metrics: baseline id to its metrics on search items; must hold base and experts.
        experts: the experts' names.
        constraints: whose bounds become numbers here, from base and experts on search items.
    """
    values = {name: complete(objectives, m).values for name, m in metrics.items()}
    scaling = Scaling.from_values(np.array([values[name] for name in ("base", *experts)]))
    singles = [name for name in values if name.startswith("single-")]
    means = {name: float(scaling.scale(np.array([values[name]])).mean()) for name in singles}
    best = min(singles, key=lambda name: (means[name], name)) if singles else None
    shown = ["base", *experts, *([UNIFORM] if UNIFORM in values else []), *([best] if best else [])]
    return BaselinesEvent(
        ideal=scaling.ideal,
        nadir=scaling.nadir,
        single=best,
        shown=tuple(shown),
        bounds=tuple(constraint.bound(metrics) for constraint in constraints),
    )


def idle_objectives(
    objectives: Sequence[Objective],
    metrics: Mapping[str, Mapping[str, Metric]],
    experts: Sequence[str],
) -> list[Problem]:
    """Warnings (E131) of objectives that give a front nothing to weigh, as far as the baselines show.

    An objective on which the base and all experts score the same, and two whose better ends go together:
    their Pearson correlation over all baselines, in minimised form, is at least `SAME_ORDER`.

    Args:
        objectives: in campaign order.
        metrics: baseline id to its metrics on search items; must hold base and experts.
        experts: the experts' names.
    """
    values = np.array([complete(objectives, found).values for found in metrics.values()])
    compared = [row for row, name in zip(values, metrics, strict=True) if name in ("base", *experts)]
    constant = np.ptp(np.array(compared), axis=0) == 0
    found = [
        Problem(
            "E131", f"`{objective.metric}` is the same for the base and every expert",
            f"all have {metrics['base'][objective.metric].value:g}", "choose another metric, or more items",
            field=f"objectives[{index}]",
        )
        for index, objective in enumerate(objectives)
        if constant[index]
    ]  # fmt: skip
    if len(values) < FEWEST_POINTS:
        return found
    for left, right in combinations(np.flatnonzero(~constant).tolist(), 2):
        correlation = float(np.corrcoef(values[:, left], values[:, right])[0, 1])
        if correlation >= SAME_ORDER:
            first, second = objectives[left].metric, objectives[right].metric
            found.append(
                Problem(
                    "E131", f"`{first}` and `{second}` get better together: they are one objective",
                    f"correlation {correlation:.4f} over {len(values)} baselines", "leave one out",
                    field=f"objectives[{right}]",
                )
            )  # fmt: skip
    return found
