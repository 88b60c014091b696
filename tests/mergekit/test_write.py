"""Recipes written as mergekit YAML and read back give the same tensors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.open import open_source
from evomerge.export.export import merge_recipe
from evomerge.export.files import write_json
from evomerge.mergekit import mergekit_yaml
from evomerge.mergekit.stated import read_recipe
from evomerge.mergekit.write import rules
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import (
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    Source,
    identity_path,
    single_source_recipe,
)
from tests.tiny_models import write_model

NAMES = ("code", "math")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root / "base")
    for number, name in enumerate(NAMES):
        write_model(root / name, expert=number)
    return root


def sources(models: Path) -> dict[str, CheckpointSource]:
    return {name: CheckpointSource(str(models / name)) for name in ("base", *NAMES)}


def of(models: Path, method: str, coefficients: Mapping[str, Any], **options: str) -> Recipe:
    based = METHODS[method].uses_base(METHODS[method].resolve(options))
    merged = MergedSource(method, NAMES, "base" if based else None, coefficients, options)
    return single_source_recipe({**sources(models), "merged": merged}, "merged", 2, "bfloat16")


def carry_out(models: Path, recipe: Recipe, name: str) -> Path:
    """Merge it from a file beside the models; the paths in the export are relative to it."""
    write_json(models / "recipe.json", recipe.to_json())
    merge_recipe(models / "recipe.json", models / name, overwrite=True)
    return models / name


VARIED = {
    "code": {"": 0.3, "layers.1": 0.5, "layers.0.attn": 0.7, "final_norm": 0.2, "head": 0.9},
    "math": {"": 0.4, "embed": 0.1, "layers.1.mlp.mlp.up_proj.weight": 0.8},
}
FINE = {
    "code": {
        "": 0.4,
        "layers.0.attn.self_attn.q_proj": 0.1,
        "layers.0.attn.self_attn.k_proj": 0.2,
        "layers.0.mlp.mlp.down_proj": 0.3,
        "layers.0.norm": 0.6,
        "layers.1.attn": 0.7,
        "layers.1.attn.self_attn.o_proj": 0.8,
        "layers.1.norm": 0.9,
        "final_norm": 1.1,
    },
    "math": {"": 0.5, "embed": 0.1, "layers.1": 0.3, "layers.1.mlp.mlp.gate_proj": 1.2, "head": 1.3},
}
HALF = {"*": {"": 0.5}}
MERGEKIT = {"compat": "mergekit"}
EXACT: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("linear", {"weight": VARIED}, {}),
    ("linear", {"weight": VARIED}, {"normalise": "no"}),
    ("task_arithmetic", {"weight": VARIED, "lambda": {"*": {"": 0.8}}}, {}),
    ("task_arithmetic", {"weight": FINE}, {}),
    ("slerp", {"t": {"*": {"": 0.25, "layers.1": 0.75}}}, {}),
    ("nuslerp", {"t": {"*": {"": 0.25, "layers.1": 0.75}}}, {}),
    ("multislerp", {"weight": VARIED}, {"around": "zero"}),
    ("karcher", {"weight": {"*": {"": 1.0}}}, {}),
    ("model_stock", {}, {}),
    ("sce", {"density": HALF}, {}),
    ("ram", {"r": {"*": {"": 0.0}}, "epsilon": {"*": {"": 0.001}}}, {}),
    ("ram", {"r": {"*": {"": 0.4, "layers.1": 0.0}}, "alpha": HALF}, {}),
    ("ties", {"weight": VARIED, "density": {"code": {"": 0.3}, "math": {"": 0.6}}}, MERGEKIT),
    ("breadcrumbs", {"weight": VARIED, "density": HALF, "gamma": {"*": {"": 0.02}}}, MERGEKIT),
    ("dare_linear", {"weight": VARIED, "density": HALF}, {}),
    ("dare_ties", {"weight": VARIED, "density": HALF}, MERGEKIT),
    ("della", {"weight": VARIED, "density": HALF, "epsilon": {"*": {"": 0.1}}}, MERGEKIT),
]


@pytest.mark.parametrize(("method", "coefficients", "options"), EXACT)
def test_round_trip_gives_the_same_tensors(
    models: Path, method: str, coefficients: dict[str, Any], options: dict[str, str]
) -> None:
    first = carry_out(models, of(models, method, coefficients, **options), "first")
    merge_recipe(first / "mergekit_config.yml", models / "second", overwrite=True)
    left, right = (load_file(models / n / "model.safetensors") for n in ("first", "second"))
    assert set(left) == set(right)
    for name, tensor in left.items():
        # Weights that were divided by a density, or added up, may differ in their last digit.
        assert torch.allclose(tensor.float(), right[name].float(), rtol=2**-7, atol=1e-6), name
    different = sum(int((left[n] != right[n]).sum()) for n in left)
    assert different <= (0 if method not in ("dare_linear", "slerp") else 20)


def test_paper_semantics_are_said_to_differ(models: Path) -> None:
    out = carry_out(models, of(models, "ties", {"weight": VARIED, "density": HALF}), "paper")
    text = (out / "mergekit_config.yml").read_text()
    assert "# - signs were elected before the weights" in text
    assert "# - divided by the number of agreeing experts" in text
    assert "signs were elected before the weights" in (out / "README.md").read_text()


@pytest.mark.parametrize(("options", "differs"), [({}, True), ({"along": "rows"}, False)])
def test_arcs_from_a_tensor_that_is_as_in_the_base_are_said_to_differ(
    models: Path, options: dict[str, str], differs: bool
) -> None:
    out = carry_out(models, of(models, "nuslerp", {"t": HALF}, **options), "arc")
    assert ("takes the two for perpendicular" in (out / "mergekit_config.yml").read_text()) == differs
    notes = read_recipe(out / "mergekit_config.yml").notes
    assert any("takes the two for perpendicular" in note for note in notes) == differs


def test_stacks_with_scaled_layers(models: Path) -> None:
    path = (LayerStep("code", 0), LayerStep("math", 1, 0.5), LayerStep("math", 1))
    recipe = Recipe(
        sources(models), path, {"embed": "code", "final_norm": "math", "head": "math"}, "float32"
    )
    first = carry_out(models, recipe, "first")
    merge_recipe(first / "mergekit_config.yml", models / "second", overwrite=True)
    left, right = (load_file(models / n / "model.safetensors") for n in ("first", "second"))
    assert all(tensor.equal(right[name]) for name, tensor in left.items())


def test_single_tensors_scaled(models: Path) -> None:
    scaled = MergedSource(
        "linear", ("math",), None,
        {"weight": {"math": {"": 1.0, "layers.1.attn.self_attn.o_proj.weight": 0.0, "layers.1.mlp": 0.5}}},
        {"normalise": "no"},
    )  # fmt: skip
    recipe = Recipe(
        {**sources(models), "scaled": scaled},
        (LayerStep("code", 0), LayerStep("scaled", 1), LayerStep("math", 1, 0.5)),
        {"embed": "code", "final_norm": "math", "head": "scaled"},
        "float32",
    )
    first = carry_out(models, recipe, "first")
    written = (first / "mergekit_config.yml").read_text()
    assert "merge_method: passthrough" in written
    merge_recipe(first / "mergekit_config.yml", models / "second", overwrite=True)
    left, right = (load_file(models / n / "model.safetensors") for n in ("first", "second"))
    assert all(tensor.equal(right[name]) for name, tensor in left.items())
    # A tensor times zero is zeros: mergekit's way to let a copied layer pass its input on.
    assert not left["model.layers.1.self_attn.o_proj.weight"].any()
    assert left["model.layers.1.self_attn.q_proj.weight"].any()


def same_when_read_back(models: Path, first: Path) -> Recipe:
    """Merge the mergekit file of an export, compare the tensors, give the recipe that was read."""
    merge_recipe(first / "mergekit_config.yml", models / "second", overwrite=True)
    left, right = (load_file(n / "model.safetensors") for n in (first, models / "second"))
    assert all(tensor.equal(right[name]) for name, tensor in left.items())
    return read_recipe(first / "mergekit_config.yml").recipe


@pytest.mark.parametrize(
    ("method", "lower", "upper"),
    [
        ("nuslerp", {"t": {"*": {"": 0.25}}}, {"t": {"*": {"": 0.25}}}),
        ("ram", {"r": {"*": {"": 0.0}}}, {"r": {"*": {"": 0.5}}}),
    ],
)
def test_merged_layers_of_several_sources_have_each_their_own_numbers(
    models: Path, method: str, lower: dict[str, Any], upper: dict[str, Any]
) -> None:
    parts = {
        "lower": MergedSource(method, NAMES, "base", lower),
        "upper": MergedSource(method, ("other", "math"), "base", upper),
    }
    if not (models / "other").exists():
        write_model(models / "other", expert=7)
    recipe = Recipe(
        {**sources(models), "other": CheckpointSource(str(models / "other")), **parts},
        (LayerStep("lower", 0), LayerStep("upper", 1)),
        {"embed": "lower", "final_norm": "upper", "head": "upper"},
        "float32",
    )
    same_when_read_back(models, carry_out(models, recipe, "first"))


@pytest.mark.parametrize("method", ["linear", "karcher", "stack"])
def test_config_and_tokenizer_are_those_of_the_recipe_without_a_base(models: Path, method: str) -> None:
    """mergekit takes them of any model of a file that names no base."""
    if method == "stack":
        path = (LayerStep("code", 0), LayerStep("math", 1))
        outer = {"embed": "code", "final_norm": "math", "head": "math"}
        recipe = Recipe(sources(models), path, outer, "float32")
    else:
        recipe = of(models, method, {"weight": {"*": {"": 1.0}}})
    first = carry_out(models, recipe, "first")
    assert "base_model: ../base\n" in (first / "mergekit_config.yml").read_text()
    read = same_when_read_back(models, first)
    assert read.checkpoints[read.tokenizer].path == str(models / "base")


def test_a_sphere_without_a_base_says_whose_config_mergekit_takes(models: Path) -> None:
    first = carry_out(models, of(models, "nuslerp", {"t": HALF}, around="zero"), "first")
    text = (first / "mergekit_config.yml").read_text()
    assert "tokenizer_source: ../base\n" in text
    assert "# - mergekit takes the config.json of any of its models" in text
    same_when_read_back(models, first)


def test_signs_that_part_texts_may_stand_in_a_folders_name(models: Path) -> None:
    """`../a+b` would mean the adapter `b` on `../a`, `../a@b` a revision."""
    write_model(models / "math+code@2", expert=8)
    merged = MergedSource("task_arithmetic", ("odd",), "base", {"weight": HALF})
    odd = CheckpointSource(str(models / "math+code@2"))
    named: dict[str, Source] = {**sources(models), "odd": odd, "merged": merged}
    recipe = single_source_recipe(named, "merged", 2, "float32")
    same_when_read_back(models, carry_out(models, recipe, "first"))


def test_a_method_mergekit_does_not_have_is_said(models: Path) -> None:
    out = carry_out(models, of(models, "star", {"weight": HALF, "eta": HALF}), "star")
    assert not (out / "mergekit_config.yml").exists()
    assert "mergekit has no method star" in (out / "README.md").read_text()


def test_what_has_no_counterpart_is_said_with_its_reason(models: Path) -> None:
    merged = MergedSource("linear", NAMES, None, {"weight": {"*": {"": 1.0}}})
    recipe = Recipe(
        {**sources(models), "merged": merged},
        identity_path(2),
        {"embed": "base", "final_norm": "merged", "head": "merged"},
    )
    folders = {name: open_source(models / name, name) for name in ("base", *NAMES)}
    written = mergekit_yaml(recipe, folders, {name: os.fspath(name) for name in folders})
    assert written.text == ""
    assert "some of its layers are merged and others copied" in written.differences[0]
    assert "mergekit_config.yml" not in os.listdir(carry_out(models, recipe, "mixed"))


def test_filters_mean_only_what_they_should() -> None:
    values = {"a.b.up": 1.0, "a.b.down": 1.0, "a.c.up": 2.0, "a.c.norm": 3.0, "a.d.norm": 1.0}
    found = rules(values)
    assert isinstance(found, list)
    for name, value in values.items():
        matching = (e["value"] for e in found if "filter" not in e or str(e["filter"]) in name)
        assert next(matching) == value
    assert rules({"a": 1.0, "b": 1.0}) == 1.0


def test_a_name_within_a_longer_one_has_its_filter_after_that() -> None:
    values = {"experts.down_proj": 0.1, "experts.down_proj_bias": 0.2, "norm": 0.3, "gate": 0.3}
    found = rules(values)
    assert isinstance(found, list)
    assert [each["value"] for each in found] == [0.2, 0.1, 0.3]
    assert all(str(each["filter"]) in "experts.down_proj_bias" for each in found[:2])
