"""Slope jobs, done by a real worker: against finite differences, and what they leave behind."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from evomerge.checkpoint.folder import open_folder
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.method import COMPAT, MergeMethod
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    MergedSource,
    Recipe,
    checkpoint_recipe,
    single_source_recipe,
)
from evomerge.recipe.rows import RowTable
from evomerge.run.job import Job, JobResult, MeasuredSlope, SlopeWork, WorkerSetup
from evomerge.run.worker import Worker
from evomerge.search_space import SearchSpaceDeclaration, build_search_space, gene_gradient
from tests.shared import made_once
from tests.tiny_models import tiny_base, write_evaluator, write_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

EXPERTS = ("code", "math", "lora")
"""Not in the order of their names: gradients come in this one."""
ITEMS = {"pets.acc": (0, 2, 3, 5, 7, 11), "birds.acc": (1, 4, 6)}
WORK = SlopeWork({"pets.acc": 0.75, "birds.acc": 1.5}, ITEMS)
STEP = 5e-3
DRAWS = 2
"""Random directions in which a gradient is compared, where not by every number."""


def make(root: Path, tied: bool) -> None:
    fields = {"tie_word_embeddings": tied}
    write_model(root / "base", **fields)
    write_model(root / "code", expert=0, **fields)
    write_model(root / "math", expert=1, **fields)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "up_proj"])
    with torch.random.fork_rng():
        torch.manual_seed(4)
        tuned = peft.get_peft_model(tiny_base(**fields), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    tuned.save_pretrained(root / "lora", save_embedding_layers=False)
    for seed, name in enumerate(("pets", "birds")):
        write_evaluator(root, name, seed=seed)


@dataclass
class Bed:
    """A worker over models in a folder, and the places of its base."""

    worker: Worker
    sources: Mapping[str, CheckpointSource]
    places: tuple[str, ...]

    def run(self, recipe: Recipe, work: SlopeWork = WORK) -> JobResult:
        job = Job("s", "slope", recipe.to_json(), slope=work, rows=recipe.row_content)
        return self.worker.run(job)

    def slope(self, recipe: Recipe, work: SlopeWork = WORK) -> MeasuredSlope:
        result = self.run(recipe, work)
        assert result.status == "ok", result.message + result.traceback
        assert result.slope is not None
        return result.slope

    def recipe(self, weights: np.ndarray, method: str, **fields: Any) -> Recipe:
        """The merge with these weights, [experts, places]; numbers among `fields` hold everywhere."""
        tables = {
            name: dict(zip(self.places, row, strict=True))
            for name, row in zip(EXPERTS, weights.tolist(), strict=True)
        }
        numbers = {k: v for k, v in fields.items() if isinstance(v, float)}
        coefficients: dict[str, Any] = {"weight": tables}
        for name, value in numbers.items():
            by_expert = {e: {"": value} for e in EXPERTS}
            coefficients[name] = {"*": {"": value}} if name == "lambda" else by_expert
        options = {k: v for k, v in fields.items() if isinstance(v, str)}
        base = None if method == "linear" else "base"
        merged = MergedSource(method, EXPERTS, base, coefficients, options, seed=9)
        return single_source_recipe({**self.sources, MERGED: merged}, MERGED, 2, "float32")

    def loss(self, recipe: Recipe, entropy: bool = False) -> float:
        found = self.slope(recipe, SlopeWork({}, WORK.items, entropy))
        assert found.gradient.shape == (0, 0)
        return sum(weight * found.losses[metric] for metric, weight in WORK.weights.items())

    def difference(self, weights: np.ndarray, along: np.ndarray, method: str, **fields: Any) -> float:
        """The slope along a direction: central differences of fourth order."""

        def loss(steps: int) -> float:
            return self.loss(self.recipe(weights + steps * STEP * along, method, **fields))

        return (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * STEP)


def bed_of(root: Path, dtype: str = "float64", by_tensor: bool = False, by_row: bool = False) -> Bed:
    folders = {name: str(root / name) for name in ("base", *EXPERTS)}
    evaluators = tuple(str(root / f"{name}.yaml") for name in ("pets", "birds"))
    cache = root / "cache"
    cache.mkdir(exist_ok=True)
    methods = ("ties", "breadcrumbs", "della_linear")
    setup = WorkerSetup(
        sources=folders, evaluators=evaluators, methods=methods, trims=("tensor", "model"),
        dtype=dtype, storage="float32", device="cpu", threads=1, batch_size=4, cache=str(cache),
        by_tensor=by_tensor, by_row=by_row,
    )  # fmt: skip
    sources = {n: CheckpointSource(p, on="base" if n == "lora" else "") for n, p in folders.items()}
    base = open_folder(root / "base", "base")
    return Bed(Worker(setup), sources, base.layout_by(tensor=by_tensor, row=by_row).places)


@pytest.fixture(autouse=True)
def _wide_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's norms are float32 even in float64, which would drown finite differences."""

    def forward(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(
            hidden, self.weight.shape, self.weight, self.variance_epsilon
        )

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@functools.cache
def bed_with(tied: bool) -> Bed:
    return bed_of(made_once(f"slopes-{tied}", lambda root: make(root, tied)))


@pytest.fixture
def bed() -> Bed:
    return bed_with(tied=True)


def some_weights(bed: Bed, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).uniform(0.1, 0.6, (len(EXPERTS), len(bed.places)))
    weights[0, 2:5] = 0.0  # it has a gradient all the same
    return weights


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


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


def test_gradients_by_weight_matrix() -> None:
    root = made_once("slopes-True", lambda folder: make(folder, True))
    coarse, fine = bed_of(root), bed_of(root, by_tensor=True)
    module = [
        next(i for i, p in enumerate(coarse.places) if f"{own}.".startswith(f"{p}."))
        for own in fine.places
    ]
    weights = some_weights(coarse)
    found = fine.slope(fine.recipe(weights[:, module], "linear")).gradient
    assert found.shape == (len(EXPERTS), len(fine.places)) == (3, 2 * 8 + 2)
    summed = np.zeros_like(weights)
    np.add.at(summed, (slice(None), module), found)
    np.testing.assert_allclose(
        summed, coarse.slope(coarse.recipe(weights, "linear")).gradient, rtol=1e-9
    )
    varied = some_weights(fine, 1)
    found = fine.slope(fine.recipe(varied, "linear")).gradient
    along = np.random.default_rng(2).normal(size=varied.shape)
    along /= np.linalg.norm(along)
    assert np.sum(found * along) == pytest.approx(fine.difference(varied, along, "linear"), rel=1e-3)


def test_gradients_by_row() -> None:
    root = made_once("slopes-True", lambda folder: make(folder, True))
    fine, by_row = bed_of(root, by_tensor=True), bed_of(root, by_tensor=True, by_row=True)
    layout = open_folder(root / "base", "base").row_layout
    counts = np.array([layout.rows.get(place, 1) for place in fine.places])
    weights = some_weights(fine)
    recipe = fine.recipe(weights, "task_arithmetic", **{"lambda": 0.7})
    found = by_row.slope(recipe).gradient
    assert found.shape == (len(EXPERTS), counts.sum()) == (len(EXPERTS), len(layout.leaves))
    summed = np.add.reduceat(found, np.cumsum(counts) - counts, axis=1)
    # Factors are multiplied in another order.
    np.testing.assert_allclose(summed, fine.slope(recipe).gradient, rtol=1e-5, atol=1e-6)

    # Where rows differ: weights on the grid of a table, in its steps.
    rng = np.random.default_rng(3)
    steps = rng.integers(11_000, 16_000, found.shape)
    single = np.array([leaf in fine.places for leaf in layout.leaves])
    along = np.where(single, 0, rng.choice([-1, 1], found.shape))

    def moved(by: int) -> Recipe:
        tables: dict[str, dict[str, np.ndarray]] = {}
        for name, row in zip(EXPERTS, steps + by * along, strict=True):
            parts = np.split(row, np.cumsum(counts)[:-1])
            tables[name] = {
                place: part.astype(np.int16)
                for place, part in zip(fine.places, parts, strict=True)
                if place in layout.rows
            }
        source = replace(recipe.sources[MERGED], rows=RowTable(-1.0, 1e-4, tables))  # type: ignore[type-var]
        return replace(recipe, sources={**recipe.sources, MERGED: source})

    losses = {by: by_row.loss(moved(by)) for by in (-20, -10, 10, 20)}
    expected = (8 * (losses[10] - losses[-10]) - (losses[20] - losses[-20])) / (12 * 10 * 1e-4)
    assert np.sum(by_row.slope(moved(0)).gradient * along) == pytest.approx(expected, rel=1e-3)


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
    drawn = [rng.normal(size=weights.shape) for _ in range(DRAWS)]
    along = [v / np.linalg.norm(v) for v in drawn]
    expected = np.array([bed.difference(weights, v, method, **fields) for v in along])
    assert relative(np.array([np.sum(found * v) for v in along]), expected) < 1e-3


FIELDS: dict[str, dict[str, Any]] = {
    "layer": {"field": "layer"},
    "band": {"field": "band", "bands": 1},
    "curve": {"field": "depth_curve", "knots": 2, "outside_layers": "shared"},
    "lines": {"field": "lines", "outside_layers": "shared"},
    "module": {"field": "layer_module"},
}


@pytest.mark.parametrize("field", FIELDS)
def test_gradients_by_gene_are_finite_differences_of_the_loss_of_genomes(bed: Bed, field: str) -> None:
    """From a genome to the losses of its merge, and from the gradient by place back to genes."""
    stated = {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": FIELDS[field]}}
    base = open_folder(made_once("slopes-True", lambda root: make(root, True)) / "base", "base")
    space = build_search_space(
        SearchSpaceDeclaration.model_validate(stated), base.layout, bed.sources, EXPERTS, "float32", 9
    )
    rng = np.random.default_rng(4)
    middle = np.array([gene.low + rng.uniform(0.1, 0.3) for gene in space.genes])
    # On the grid, and about as long as `STEP`.
    step = max(1, round(STEP / 1e-3 / np.sqrt(len(middle)))) * 1e-3
    along = step * rng.choice([-1.0, 1.0], len(middle))

    def loss(steps: int) -> float:
        return bed.loss(space.spelled_out(space.snap((middle + steps * along).tolist())))

    gradient = bed.slope(space.spelled_out(space.snap(middle.tolist()))).gradient
    expected = (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / 12
    found = gene_gradient(space, gradient)
    assert found.shape == (len(space.genes),)
    assert np.sum(found * along) == pytest.approx(expected, rel=1e-3)


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
