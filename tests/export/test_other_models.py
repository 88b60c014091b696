"""Models that are no decoders: merged live and to disk, and loaded by stock transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader
from evomerge.errors import CheckpointError, ConfigError
from evomerge.export.export import merge_recipe
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.skeleton import model_class
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    single_source_recipe,
)
from evomerge.search_space.build import build_search_space
from evomerge.search_space.declaration import SearchSpaceDeclaration
from tests.other_models import FAMILIES, inputs, tiny

TOWERS = {
    "t5": [("encoder", 2), ("decoder", 3)],
    "llava": [("vision", 2), ("text", 3)],
    "gemma3": [("vision", 2), ("text", 3)],
    "qwen2_vl": [("vision", 2), ("text", 3)],
    "vit": [("", 2)],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FAMILY/base, FAMILY/one and FAMILY/two of every family, as transformers saves them."""
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        for expert, name in enumerate(("base", "one", "two")):
            tiny(family, expert).save_pretrained(root / family / name)
    return root


def recipe_of(folder: Path, coefficients: dict[str, dict[str, float]], layers: int) -> Recipe:
    """Task arithmetic of `one` and `two` over `base`."""
    sources = {name: CheckpointSource(str(folder / name)) for name in ("base", "one", "two")}
    merged = MergedSource("task_arithmetic", ("one", "two"), "base", {"weight": coefficients})
    return single_source_recipe({**sources, MERGED: merged}, MERGED, layers, "float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_live_is_the_export_and_stock_transformers_gives_the_average_s_logits(family, models, tmp_path):
    folder = models / family
    base = open_folder(folder / "base", "base")
    assert [(t.name, t.count) for t in base.names.towers] == TOWERS.get(family, [("", 3)])
    recipe = recipe_of(folder, {"one": {"": 0.5}, "two": {"": 0.5}}, base.layers)
    merge_recipe(recipe, tmp_path / "out")

    kind = getattr(transformers, FAMILIES[family][0])
    loaded, found = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
    oracle = tiny(family, 0)
    one, two = tiny(family, 1).state_dict(), tiny(family, 2).state_dict()
    oracle.load_state_dict(
        {
            n: (one[n] + two[n]) / 2 if t.is_floating_point() else t
            for n, t in oracle.state_dict().items()
        }
    )
    with torch.inference_mode():
        ours = loaded.eval()(**inputs(family)).logits
        theirs = oracle(**inputs(family)).logits
        other = tiny(family, 1)(**inputs(family)).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (other - theirs).abs().max() > 1e-2  # the oracle sees a difference

    folders = {name: open_folder(folder / name, name) for name in ("base", "one", "two")}
    live = LiveModel.load(folders["base"], "float32")
    readers = {name: TensorReader(each) for name, each in folders.items()}
    live.materialize(make_plan(recipe, folders, WeightStatistics(folders)), readers)
    written = load_file(tmp_path / "out" / "model.safetensors")
    state = live.model.state_dict()
    assert {each.tensor for each in live.bindings} == set(written)
    for each in live.bindings:
        assert torch.equal(each.view(state[each.parameter]), written[each.tensor]), each.tensor
    with torch.inference_mode():
        # Products may round otherwise where memory is aligned otherwise.
        live_logits = live.model(**inputs(family)).logits
    torch.testing.assert_close(live_logits, ours, rtol=1e-5, atol=1e-6)
    assert live.model.config._attn_implementation == loaded.config._attn_implementation


def test_each_tower_takes_its_own_coefficients(models, tmp_path):
    table = {"": 0.0, "vision": 1.0, "text.layers.1": 1.0, "projector": 1.0}
    layers = open_folder(models / "llava" / "base", "base").layers
    recipe = recipe_of(models / "llava", {"one": table, "two": {"": 0.0}}, layers)
    merge_recipe(recipe, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(models / "llava" / "base" / "model.safetensors")
    one = load_file(models / "llava" / "one" / "model.safetensors")
    taken = ("vision_tower.", "language_model.model.layers.1.", "multi_modal_projector.")
    for name, tensor in found.items():
        if name.startswith(taken):
            torch.testing.assert_close(tensor, one[name], rtol=0, atol=1e-6)
        else:
            assert torch.equal(tensor, base[name]), name


def labels_of(family: str, models: Path, **field: object) -> list[str]:
    layout = open_folder(models / family / "base", "base").layout_by(
        tensor=field.get("field") == "tensor", row=False
    )
    declaration = SearchSpaceDeclaration.model_validate(
        {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": field}}
    )
    sources = {name: CheckpointSource(name) for name in ("base", "one")}
    space = build_search_space(declaration, layout, sources, ["one"], "float32", 0)
    genome = space.snap([0.1 * (1 + index % 9) for index in range(len(space.genes))])
    assert space.encode(space.decode(genome)) == genome
    covered = [place for gene in space.genes for place in gene.places]
    assert set(covered) == set(layout.places)
    return [gene.name.removeprefix("weight.one").removeprefix(".") for gene in space.genes]


def test_search_spaces_lie_over_towers(models):
    assert labels_of("t5", models, field="model", outside_layers="shared") == [""]
    assert labels_of("t5", models, field="model") == [
        "embed", "encoder.layers", "encoder.final_norm", "decoder.layers", "decoder.final_norm",
    ]  # fmt: skip
    assert labels_of("llava", models, field="layer", outside_layers="shared") == [
        "vision.layers.0", "vision.layers.1", "text.layers.0", "text.layers.1", "text.layers.2",
    ]  # fmt: skip
    assert labels_of("qwen2_vl", models, field="band", bands=2) == [
        "vision.embed", "vision.layers.0", "vision.layers.1", "vision.projector",
        "text.embed", "text.layers.0", "text.layers.1-2", "text.final_norm", "head",
    ]  # fmt: skip
    assert labels_of("gemma3", models, field="depth_curve", knots=2, outside_layers="shared") == [
        "vision.knot.0", "vision.knot.1", "text.knot.0", "text.knot.1",
    ]  # fmt: skip
    modules = labels_of("llava", models, field="layer_module")
    assert {"text.layers.2.mlp", "vision.layers.1.attn"} <= set(modules)
    assert "encoder.layers.0.layer.0.SelfAttention.q" in labels_of("t5", models, field="tensor")


def test_a_path_through_towers_is_in_order(models, tmp_path):
    layers = open_folder(models / "t5" / "base", "base").layers
    recipe = recipe_of(models / "t5", {"one": {"": 0.5}, "two": {"": 0.5}}, layers)
    swapped = (LayerStep(MERGED, 1), LayerStep(MERGED, 0), *recipe.path[2:])
    with pytest.raises(ConfigError, match=r"E119.*takes them all, in order.*encoder 2, decoder 3"):
        merge_recipe(Recipe(recipe.sources, swapped, recipe.outer, "float32"), tmp_path / "out")
    declaration = SearchSpaceDeclaration.model_validate(
        {"schema": 1, "method": "task_arithmetic", "layer_path": {"form": "steps"}}
    )
    layout = open_folder(models / "t5" / "base", "base").layout
    sources = {name: CheckpointSource(name) for name in ("base", "one")}
    with pytest.raises(ConfigError, match=r"E119.*one family of layers.*encoder, decoder"):
        build_search_space(declaration, layout, sources, ["one"], "float32", 0)


def test_an_architecture_that_transformers_lacks_is_named(models, tmp_path):
    tiny("vit").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))
    with pytest.raises(
        CheckpointError, match=r"E203.*no class of this architecture.*NoSuchModel.*name one"
    ):
        model_class(open_folder(tmp_path, "base"))


def test_layers_that_a_config_states_are_counted_by_tower(models, tmp_path):
    tiny("t5").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_decoder_layers": 4}))
    with pytest.raises(CheckpointError, match=r"E222.*layers of decoder differs.*4, the files have 3"):
        open_folder(tmp_path, "base")
