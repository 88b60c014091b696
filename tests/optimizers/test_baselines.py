"""What a front has to beat: the recipes, and what is frozen of their scores."""

import numpy as np
import pytest

from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import Metric
from evomerge.optimizers.baselines import (
    baseline_recipes,
    freeze,
    idle_objectives,
)
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, single_coefficient_recipe

EXPERTS = ("math", "code")
SOURCES = {name: CheckpointSource(f"models/{name}", name * 8) for name in ("base", *EXPERTS)}
OBJECTIVES = (Objective("a.acc", "maximize"), Objective("b.loss", "minimize"))


def metrics(acc: float, loss: float) -> dict[str, Metric]:
    return {"a.acc": Metric(acc, 0.1, 10), "b.loss": Metric(loss, 0.1, 10)}


def test_ids_and_recipes_in_the_order_of_evaluation() -> None:
    recipes = baseline_recipes(SOURCES, EXPERTS, [0.5, 1.0, 0.25], 3, "bfloat16")
    assert list(recipes) == ["base", "math", "code", "uniform", "single-0.5", "single-1", "single-0.25"]
    # With two experts the uniform average is the single coefficient 0.5: computed once.
    assert recipes["uniform"].digest == recipes["single-0.5"].digest
    assert len({recipe.digest for recipe in recipes.values()}) == len(recipes) - 1
    for recipe in recipes.values():
        assert recipe.is_identity_path(3)
        assert recipe.dtype == "bfloat16"
        assert recipe_from_json(recipe.to_json()) == recipe


def test_a_single_coefficient_is_task_arithmetic_of_all_experts() -> None:
    source = single_coefficient_recipe(SOURCES, EXPERTS, 0.3, 2, "float32").sources[MERGED]
    assert isinstance(source, MergedSource)
    assert (source.method, source.inputs, source.base) == ("task_arithmetic", EXPERTS, "base")
    assert source.coefficients == {"weight": {"math": {"": 0.3}, "code": {"": 0.3}}}


def test_scaling_comes_from_base_and_experts_alone() -> None:
    event = freeze(
        OBJECTIVES,
        {
            "base": metrics(0.2, 5.0),
            "math": metrics(0.9, 4.0),
            "code": metrics(0.5, 1.0),
            "uniform": metrics(0.99, 0.1),
            "single-0.5": metrics(0.6, 2.0),
            "single-1": metrics(0.8, 1.5),
        },
        EXPERTS,
    )
    assert event.ideal == (-0.9, 1.0)
    assert event.nadir == (-0.2, 5.0)
    assert event.single == "single-1"
    assert event.shown == ("base", "math", "code", "uniform", "single-1")


def test_ties_of_the_best_single_coefficient_do_not_depend_on_order() -> None:
    rows = {"base": metrics(0.1, 2.0), "math": metrics(0.9, 1.0), "code": metrics(0.2, 1.0)}
    singles = {f"single-{c}": metrics(0.5, 1.5) for c in ("1.2", "0.4", "0.8")}
    for order in (list(singles), sorted(singles)):
        event = freeze(OBJECTIVES, rows | {name: singles[name] for name in order}, EXPERTS)
        assert event.single == "single-0.4"


def test_failed_merges_are_left_out() -> None:
    rows = {"base": metrics(0.1, 2.0), "math": metrics(0.9, 1.0), "code": metrics(0.2, 1.0)}
    event = freeze(OBJECTIVES, rows, EXPERTS)
    assert event.single is None
    assert event.shown == ("base", "math", "code")
    with pytest.raises(KeyError, match="code"):
        freeze(OBJECTIVES, {name: rows[name] for name in ("base", "math")}, EXPERTS)
    assert np.isfinite(event.ideal).all()


def test_objectives_that_give_a_front_nothing_to_weigh() -> None:
    rows = {"base": metrics(0.1, 2.0), "math": metrics(0.9, 1.0), "code": metrics(0.2, 0.5)}
    assert idle_objectives(OBJECTIVES, rows, EXPERTS) == []
    # Accuracy up is loss down: better ends go together. Three models are too few to say so.
    together = {"base": metrics(0.1, 3.0), "math": metrics(0.2, 2.0), "code": metrics(0.3, 1.0)}
    assert idle_objectives(OBJECTIVES, together, EXPERTS) == []
    (found,) = idle_objectives(OBJECTIVES, together | {"uniform": metrics(0.25, 1.5)}, EXPERTS)
    assert (found.code, found.field) == ("E131", "objectives[1]")
    assert "correlation 1.0000 over 4 baselines" in found.found
    # The other way round they are in conflict, which is what a front is for.
    against = (OBJECTIVES[0], Objective("b.loss", "maximize"))
    assert idle_objectives(against, together | {"uniform": metrics(0.25, 1.5)}, EXPERTS) == []


def test_an_objective_that_is_the_same_for_all() -> None:
    rows = {"base": metrics(0.25, 2.0), "math": metrics(0.25, 1.0), "code": metrics(0.25, 0.5)}
    rows |= {"uniform": metrics(0.3, 0.1), "single-1": metrics(0.2, 0.2)}
    (found,) = idle_objectives(OBJECTIVES, rows, EXPERTS)
    assert (found.code, found.field, found.found) == ("E131", "objectives[0]", "all have 0.25")
