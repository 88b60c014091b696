"""What a front has to beat: the recipes, and what is frozen of their scores."""

from pathlib import Path

import numpy as np
import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.cli.verify.invariants import verify
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import Metric
from evomerge.optimizers.baselines import (
    baseline_recipes,
    freeze,
    greedy_soup,
    idle_objectives,
)
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, single_coefficient_recipe
from evomerge.run.driver import run
from tests.tiny_models import write_campaign

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
    # Sizes are alike for all baselines of a search for models of other sizes.
    assert idle_objectives(OBJECTIVES, rows, EXPERTS, other_sizes=True) == [found]
    alike = {name: metrics(0.1 * n, 2.0) for n, name in enumerate(rows)}
    assert [p.field for p in idle_objectives(OBJECTIVES, alike, EXPERTS)] == ["objectives[1]"]
    assert idle_objectives(OBJECTIVES, alike, EXPERTS, other_sizes=True) == []


TRIO = ("math", "code", "law")


def scored(**means: float) -> dict[str, dict[str, Metric]]:
    """Both objectives alike good, from 0 (the base) to 1; names may hold `+` and `-`."""
    return {name: metrics(value, 1.0 - value) for name, value in means.items()}


def test_the_greedy_soup_takes_in_order_what_makes_it_better() -> None:
    known = scored(base=0.0, math=0.5, code=0.9, law=0.7, uniform=0.95)
    assert greedy_soup(OBJECTIVES, known, TRIO) == ("soup-code+law", False)
    better = known | scored(**{"soup-code+law": 0.93})
    assert greedy_soup(OBJECTIVES, better, TRIO) == ("uniform", True)
    lost = known | scored(**{"soup-code+law": 0.8})
    assert greedy_soup(OBJECTIVES, lost, TRIO) == ("soup-math+code", False)
    pair = lost | scored(**{"soup-math+code": 0.94})
    assert greedy_soup(OBJECTIVES, pair, TRIO) == ("soup-math+code", True)
    assert freeze(OBJECTIVES, pair, TRIO).shown == ("base", *TRIO, "uniform", "soup-math+code")
    # Where nothing helps it is the best expert; a soup without scores is passed over.
    alone = lost | scored(**{"soup-math+code": 0.1})
    assert greedy_soup(OBJECTIVES, alone, TRIO) == ("code", True)
    assert freeze(OBJECTIVES, alone, TRIO).shown == ("base", *TRIO, "uniform")
    failed = ["soup-code+law", "soup-math+code"]
    assert greedy_soup(OBJECTIVES, known, TRIO, failed) == ("code", True)
    # One that failed does not hide the one that was found without it.
    found = known | scored(**{"soup-math+code": 0.94})
    assert "soup-math+code" in freeze(OBJECTIVES, found, TRIO, failed=failed[:1]).shown


def test_of_two_experts_the_greedy_soup_is_known() -> None:
    known = scored(base=0.0, math=0.5, code=0.9, uniform=0.6)
    assert greedy_soup(OBJECTIVES, known, EXPERTS) == ("code", True)
    assert greedy_soup(OBJECTIVES, known | scored(uniform=0.95), EXPERTS) == ("uniform", True)


def test_a_soup_is_the_average_of_its_members() -> None:
    sources = {name: CheckpointSource(f"models/{name}", name * 8) for name in ("base", *TRIO)}
    recipes = baseline_recipes(sources, TRIO, [], 2, "float32", soups=["soup-math+law"])
    merged = recipes["soup-math+law"].sources[MERGED]
    assert isinstance(merged, MergedSource)
    weights = {name: table[""] for name, table in merged.coefficients["weight"].items()}
    assert weights == {"math": 0.5, "code": 0.0, "law": 0.5}


def test_a_campaign_of_three_scores_its_soup_and_verifies(tmp_path: Path) -> None:
    file = write_campaign(
        tmp_path, experts=TRIO, evaluators=("pets",), budget={"evaluations": 4},
        optimizer={"population": 4}, baselines={"single": [0.5]},
    )  # fmt: skip
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    report.raise_problems()
    history = run(campaign, tmp_path / "run", report.paths, report.storage)
    soups = [name for name in history.candidates if name.startswith("soup-")]
    assert 1 <= len(soups) <= 2
    assert all(history.candidates[name].is_baseline for name in soups)
    assert verify(tmp_path / "run") == []
