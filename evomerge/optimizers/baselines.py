"""Baselines: what a front has to beat, evaluated before the search and at no cost to its budget.

The base, every expert, the uniform average, merges with one coefficient for all experts
(`base + c * sum of task vectors`), and of three experts or more the greedy soup (Wortsman et al. 2022,
arXiv:2203.05482): the best expert, to which others are added in the order of their scores where the average
becomes better. Ideal and nadir of every objective come from base and experts on
search items; the best single coefficient is chosen there too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
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
    coefficients_recipe,
    single_coefficient_recipe,
)

UNIFORM = "uniform"

ENSEMBLE = "ensemble"
"""All experts by the mean of their logits: no merge, but what merging gives up to be one model."""

SOUP = "soup-"
"""How the id of an average of some experts begins; their names follow, with `+` between them."""

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
    soups: Iterable[str] = (),
    ensemble: bool = False,
) -> dict[str, Recipe]:
    """Id to recipe, in the order in which they are evaluated.

    They have the `form` of the campaign. Of averages of some experts there are those whose ids are `soups`.
    Ids are `base`, the experts' names, `uniform` and `single-C` for each coefficient C, and where it is
    wanted `ensemble`.
    """
    recipes = {name: checkpoint_recipe(sources, name, layers, dtype) for name in ("base", *experts)}
    share = 1.0 / len(experts)
    recipes[UNIFORM] = single_coefficient_recipe(sources, experts, share, layers, dtype)
    for coefficient in coefficients:
        recipe = single_coefficient_recipe(sources, experts, coefficient, layers, dtype)
        recipes[f"single-{coefficient:g}"] = recipe
    for name in soups:
        members = name.removeprefix(SOUP).split("+")
        weights = {expert: 1.0 / len(members) if expert in members else 0.0 for expert in experts}
        recipes[name] = coefficients_recipe(sources, weights, layers, dtype)
    if ensemble:
        known = {name: sources[name] for name in ("base", *experts)}
        recipes[ENSEMBLE] = replace(recipes["base"], sources=known, ensemble=tuple(experts))
    return {name: form.given(recipe, sources) for name, recipe in recipes.items()}


def is_soup(name: str, experts: Sequence[str]) -> bool:
    """Whether an id is that of an average of some of these experts, and not of all."""
    members = name.removeprefix(SOUP).split("+")
    some = 1 < len(members) < len(experts) and set(members) <= set(experts)
    return name.startswith(SOUP) and some


def soups_in(names: Iterable[str]) -> list[str]:
    """Ids of averages of some experts among those of candidates."""
    return [name for name in names if name.startswith(SOUP) and "+" in name]


def greedy_soup(
    objectives: Sequence[Objective],
    metrics: Mapping[str, Mapping[str, Metric]],
    experts: Sequence[str],
    failed: Collection[str] = (),
) -> tuple[str, bool]:
    """The id of the greedy soup, and True; or that of the average that must be scored next, and False.

    What counts is the mean of the scaled objectives on search items.

    Args:
        objectives: in campaign order.
        metrics: baseline id to its metrics; must hold base and experts.
        experts: the experts' names.
        failed: ids of averages that have no scores.
    """
    values = {name: complete(objectives, found).values for name, found in metrics.items()}
    scaling = Scaling.from_values(np.array([values[name] for name in ("base", *experts)]))
    means = {name: float(scaling.scale(np.array([row])).mean()) for name, row in values.items()}
    order = sorted(experts, key=lambda name: means[name])
    members, best = [order[0]], order[0]
    for expert in order[1:]:
        wanted = [each for each in experts if each in members or each == expert]
        name = UNIFORM if len(wanted) == len(experts) else SOUP + "+".join(wanted)
        if name in failed or (name == UNIFORM and name not in means):
            continue
        if name not in means:
            return name, False
        if means[name] < means[best]:
            members, best = wanted, name
    return best, True


def freeze(
    objectives: Sequence[Objective],
    metrics: Mapping[str, Mapping[str, Metric]],
    experts: Sequence[str],
    constraints: Sequence[Constraint] = (),
    failed: Collection[str] = (),
) -> BaselinesEvent:
    """What the search is measured by: scaling, the best single coefficient, the ids tables show, bounds.

    Args:
        objectives: in campaign order.
        metrics: baseline id to its metrics on search items; must hold base and experts.
        experts: the experts' names.
        constraints: whose bounds become numbers here, from base and experts on search items.
        failed: ids of averages that have no scores.
    """
    values = {name: complete(objectives, m).values for name, m in metrics.items()}
    scaling = Scaling.from_values(np.array([values[name] for name in ("base", *experts)]))
    singles = [name for name in values if name.startswith("single-")]
    means = {name: float(scaling.scale(np.array([values[name]])).mean()) for name in singles}
    best = min(singles, key=lambda name: (means[name], name)) if singles else None
    soup = greedy_soup(objectives, metrics, experts, failed)[0]
    shown = ["base", *experts, *([UNIFORM] if UNIFORM in values else [])]
    shown += [name for name in (*soups_in([soup]), best, ENSEMBLE) if name and name in values]
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
    other_sizes: bool = False,
) -> list[Problem]:
    """Warnings (E131) of objectives that give a front nothing to weigh, as far as the baselines show.

    An objective on which the base and all experts score the same, and two whose better ends go together:
    their Pearson correlation over all baselines, in minimised form, is at least `SAME_ORDER`.

    Args:
        objectives: in campaign order.
        metrics: baseline id to its metrics on search items; must hold base and experts.
        experts: the experts' names.
        other_sizes: whether the search makes models of other sizes: what is minimised may then differ
            although all baselines are alike.
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
        if constant[index] and not (other_sizes and objective.direction == "minimize")
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
