"""Slope jobs, done by a real worker: against finite differences, and what they leave behind."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.merge.passes.whole import LINEAR as WHOLE
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.method import COMPAT, MergeMethod
from evomerge.recipe.recipe import checkpoint_recipe
from evomerge.run.job import Job, SlopeWork
from tests.run.slope_bed import (
    EXPERTS,
    ITEMS,
    STEP,
    WORK,
    Bed,
    bed_with,
    relative,
    some_weights,
    widen_norms,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

DRAWS, FEW_DRAWS = 6, 2
"""Random directions in which a gradient is compared; few where `test_whole_gradient` has every gene of it."""

BY_GENE = {"task_arithmetic", "linear", *WHOLE}
"""Methods of which it has."""


@pytest.fixture(autouse=True)
def _wide_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    widen_norms(monkeypatch)


@pytest.fixture
def bed() -> Bed:
    return bed_with(tied=True)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gradient_has_a_number_for_each_expert_and_place(tied: bool) -> None:
    bed = bed_with(tied)
    weights = some_weights(bed)
    found = bed.slope(bed.recipe(weights, "task_arithmetic")).gradient
    assert (found.shape, found.dtype) == (weights.shape, np.float64)
    idle = [i for i, place in enumerate(bed.places) if not place.endswith((".attn", ".mlp"))]
    assert (found[EXPERTS.index("lora"), idle] == 0.0).all()
    assert np.count_nonzero(found) == found.size - len(idle)
    for expert, place in (("code", bed.places.index("embed")), ("lora", idle[1] - 1)):
        along = np.zeros_like(weights)
        along[EXPERTS.index(expert), place] = 1.0
        number = found[EXPERTS.index(expert), place]
        assert number == pytest.approx(bed.difference(weights, along, "task_arithmetic"), rel=1e-3)


RANKED = {"density": 0.6, "epsilon": 0.2}
BAND = {"density": 0.7, "gamma": 0.05}
LINEAR: dict[str, tuple[str, dict[str, Any]]] = {
    "task arithmetic": ("task_arithmetic", {}),
    "lambda": ("task_arithmetic", {"lambda": 0.7}),
    "shares of task vectors": ("task_arithmetic", {"divisor": "weight", "lambda": 1.2}),
    "soup": ("linear", {}),
    "sum of weights": ("linear", {"normalise": "no"}),
    "dare": ("dare_linear", {"density": 0.5}),
    "dare, shares": ("dare_linear", {"density": 0.5, "divisor": "weight", "compat": "mergekit"}),
    "dare, not rescaled": ("dare_linear", {"density": 0.5, "rescale": "none"}),
    "della": ("della_linear", {"density": 0.5, "epsilon": 0.2}),
    "della, shares": ("della_linear", {**RANKED, "divisor": "weight", "compat": "mergekit"}),
    "della, not rescaled": ("della_linear", {**RANKED, "rescale": "none"}),
    "breadcrumbs": ("breadcrumbs", {"density": 0.7, "gamma": 0.1, "rescale": "l1"}),
    "breadcrumbs, shares": ("breadcrumbs", {**BAND, "divisor": "weight", "compat": "mergekit"}),
    "ties": ("ties", {"density": 0.4, "lambda": 1.1}),
    "ties of the model": (
        "ties",
        {"density": 0.4, "trim": "model", "divisor": "none", "rescale": "l1", "rounding": "binary"},
    ),
    "dare and ties": ("dare_ties", {"density": 0.6}),
    "dare and ties, mean": ("dare_ties", {"density": 0.6, "divisor": "count", "rescale": "l1"}),
    "dare and ties, not rescaled": ("dare_ties", {"density": 0.6, "rescale": "none"}),
    "breadcrumbs and ties": ("breadcrumbs_ties", {"density": 0.7, "gamma": 0.05}),
    "breadcrumbs and ties, mean": (
        "breadcrumbs_ties",
        {**BAND, "divisor": "count", "rescale": "l1", "rounding": "binary"},
    ),
    "della and ties": ("della", {**RANKED, "divisor": "none", "rescale": "none"}),
    "della and ties, rescaled": ("della", {**RANKED, "rescale": "l1"}),
    "della and ties, mean": ("della", RANKED),
    "singular vectors": ("tsv_m", {"lambda": 1.1}),
    "right factors": ("knots", {"density": 0.6}),
    "truncated": ("star", {"eta": 0.6}),
    "consensus": ("consensus", {"tall": 0.5}),
    "competition": ("pcb", {"density": 0.15}),
    "trust region": ("tatr", {"trust": 0.93, "lambda": 0.8}),
}


def wants_cases(method: MergeMethod) -> set[tuple[str, str]]:
    """Options with values by which a method has slopes, whatever the others are."""
    allowed = method.allowed_options
    combined = [
        dict(zip(allowed, values, strict=True)) for values in itertools.product(*allowed.values())
    ]
    # What is stated is stated over `compat`, which has a say only where the rest is left open.
    sloped = [each for each in combined if method.has_slopes(method.resolve(each))]
    found = {pair for each in sloped for pair in each.items()} - {(COMPAT, "mergekit")}
    if method.mergekit and method.has_slopes(method.resolve({COMPAT: "mergekit"})):
        found.add((COMPAT, "mergekit"))
    return found


def test_every_method_with_slopes_is_compared_by_each_of_its_options() -> None:
    """One that is added as linear in its weights, or an option of one, needs a case below."""
    compared: dict[str, set[tuple[str, str]]] = {}
    for name, fields in LINEAR.values():
        method, stated = METHODS[name], {k: v for k, v in fields.items() if isinstance(v, str)}
        assert method.has_slopes(method.resolve(stated))
        resolved = {COMPAT: "none", **stated, **method.resolve(stated).to_json()}
        compared.setdefault(name, set()).update(resolved.items())
    missing = {
        name: sorted(lacking)
        for name, method in METHODS.items()
        if (lacking := wants_cases(method) - compared.get(name, set()))
    }
    assert not missing


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_are_finite_differences(bed: Bed, name: str) -> None:
    method, fields = LINEAR[name]
    weights = some_weights(bed, 1)
    found = bed.slope(bed.recipe(weights, method, **fields)).gradient
    rng = np.random.default_rng(2)
    drawn = [rng.normal(size=weights.shape) for _ in range(FEW_DRAWS if method in BY_GENE else DRAWS)]
    along = [v / np.linalg.norm(v) for v in drawn]
    expected = np.array([bed.difference(weights, v, method, **fields) for v in along])
    assert relative(np.array([np.sum(found * v) for v in along]), expected) < 1e-3


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        (
            "ties",
            {"election": "after", "density": 0.5},
            "ties is not linear in them; with election: after",
        ),
        (
            "ties",
            {"divisor": "weight", "density": 0.5},
            "ties is not linear in them; with divisor: weight",
        ),
        ("karcher", {}, "karcher is not linear in them; take a method that is"),
    ],
)
def test_methods_that_are_not_linear_are_refused(
    bed: Bed, method: str, fields: Any, words: str
) -> None:
    recipe = bed.recipe(some_weights(bed), method, **fields)
    result = bed.run(recipe)
    assert (result.status, result.failure) == ("fault", "ConfigError")
    assert result.problems[0].code == "E147"
    assert words in str(result.problems[0])


def test_a_recipe_without_experts_is_refused(bed: Bed) -> None:
    result = bed.run(checkpoint_recipe(bed.sources, "code", 2, "float32"))
    assert result.status == "fault"
    assert "the recipe is not one merge, layer by layer; its first layer is `code`" in result.message


def test_a_slope_says_the_same_again_and_leaves_the_model_as_it_was(bed: Bed) -> None:
    recipe = bed.recipe(some_weights(bed), "task_arithmetic")
    evaluate = Job("e", "evaluate", recipe.to_json())
    before = bed.worker.run(evaluate)
    first = bed.slope(recipe)
    live = bed.worker._loaded().live()
    assert not any(p.requires_grad or p.grad is not None for p in live.model.parameters())
    after = bed.worker.run(evaluate)
    assert after.measured is not None
    assert before.measured is not None
    assert after.measured.metrics == before.measured.metrics
    assert after.measured.statistics["tensors_written"] == 0.0
    for name, values in before.items.items():
        assert np.array_equal(values, after.items[name])
    again = bed.slope(recipe)
    assert again.losses == first.losses
    assert np.array_equal(again.gradient, first.gradient)


def test_gradients_of_entropies(bed: Bed) -> None:
    weights = some_weights(bed)
    found = bed.slope(bed.recipe(weights, "task_arithmetic"), replace(WORK, entropy=True))
    assert all(0.0 < loss < np.log(4) + 1e-9 for loss in found.losses.values())
    along = np.random.default_rng(5).normal(size=weights.shape)
    along /= np.linalg.norm(along)

    def loss(steps: float) -> float:
        moved = weights + steps * STEP * along
        return bed.loss(bed.recipe(moved, "task_arithmetic"), entropy=True)

    expected = (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * STEP)
    assert np.sum(found.gradient * along) == pytest.approx(expected, rel=1e-3)


def test_weights_of_losses(bed: Bed) -> None:
    recipe = bed.recipe(some_weights(bed), "task_arithmetic")
    both = bed.slope(recipe)
    one = bed.slope(recipe, replace(WORK, weights={"pets.acc": 0.75, "birds.acc": 0.0}))
    other = bed.slope(recipe, replace(WORK, items={"birds.acc": ITEMS["birds.acc"], "pets.acc": ()}))
    assert one.losses == both.losses
    assert other.losses == {"birds.acc": both.losses["birds.acc"]}
    np.testing.assert_allclose(one.gradient + other.gradient, both.gradient, rtol=1e-12)


@pytest.mark.parametrize(
    ("metric", "items", "words"),
    [
        ("fish.acc", (0,), "E148"),
        ("pets.acc", (3, 99), "items must be ascending, each once, in 0..23"),
    ],
)
def test_what_does_not_exist_is_refused(bed: Bed, metric: str, items: Any, words: str) -> None:
    recipe = bed.recipe(some_weights(bed), "task_arithmetic")
    result = bed.run(recipe, SlopeWork({metric: 1.0}, {metric: items}))
    assert result.status in ("fault", "failed")
    assert words in result.message
