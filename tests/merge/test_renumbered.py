"""Merges of layers that stand at different depths: as if the files had been renumbered before."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import CheckpointError, ConfigError
from evomerge.export.export import merge_recipe
from evomerge.export.files import write_json
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.recipe import CheckpointSource, LayerStep, Recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import CASES, merged

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LAYERS = 3
SHIFT = {"b": 1}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A family, and one whose expert `b` has its layers renumbered on disk: its layer I was I + 1."""
    root = tmp_path_factory.mktemp("families")
    fields = {"num_hidden_layers": LAYERS, "dtype": torch.float32}
    family, moved = write_family(root / "own", **fields), write_family(root / "moved", **fields)
    file = root / "moved" / "b" / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(family["b"].path / "model.safetensors").items():
        split = family["b"].names.split(name)
        new = name if split is None else family["b"].names.join((split[0] - 1) % LAYERS, split[1])
        tensors[new] = tensor
    save_file(tensors, str(file), metadata={"format": "pt"})
    for name in ("base", "a", "c"):
        content = (family[name].path / "model.safetensors").read_bytes()
        (root / "moved" / name / "model.safetensors").write_bytes(content)
    return family, {name: open_folder(folder.path, name) for name, folder in moved.items()}


def two_layers(family, source, dtype="float32"):
    sources = {name: CheckpointSource(str(folder.path)) for name, folder in family.items()}
    path = (LayerStep("merged", 0), LayerStep("merged", 1))
    outer = dict.fromkeys(("embed", "final_norm", "head"), "merged")
    return Recipe({**sources, "merged": source}, path, outer, dtype)


def live_tensors(family, plan):
    live = LiveModel.load(family["base"], "float32")
    live.materialize(plan, open_readers(family))
    return {name: tensor.clone() for name, tensor in live.model.state_dict().items()}


def local(source):
    """Whether nothing in a merge depends on layers that the shifted one does not have."""
    options = METHODS[source.method].resolve(source.options)
    if METHODS[source.method].on_inputs:
        return False  # what a layer sees comes from those before it
    random_sums = METHODS[source.method].is_random and options.rescale == "l1"
    return options.trim != "model" and not random_sums


@pytest.mark.parametrize("case", [name for name, source in CASES.items() if local(source)])
def test_shifted_is_renumbered_before(families, tmp_path, case):
    family, moved = families
    if "b" not in CASES[case].inputs:
        pytest.skip("needs expert b")
    source = dataclasses.replace(CASES[case], shifts=SHIFT)
    # A cache on disk, so that prepared tables and ranks are looked at too.
    plan = make_plan(two_layers(family, source), family, WeightStatistics(family, tmp_path / "cache"))
    expected = make_plan(two_layers(moved, CASES[case]), moved, WeightStatistics(moved))
    by_name = plan.by_name
    # Masks are keyed by a tensor's name in its source, which renumbering changes.
    tensors = [
        dataclasses.replace(
            entry,
            inputs=tuple(
                dataclasses.replace(one, key=own.key)
                for one, own in zip(entry.inputs, by_name[entry.name].inputs, strict=True)
            ),
        )
        for entry in expected.tensors
    ]
    expected = dataclasses.replace(expected, tensors=tuple(tensors))
    found, wanted = live_tensors(family, plan), live_tensors(moved, expected)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    (tmp_path / "out").mkdir()
    write_checkpoint(plan, open_readers(family), tmp_path / "out")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert set(exported) == set(found)
    for name, tensor in exported.items():
        assert torch.equal(found[name], tensor), name


def test_prepared_ranks_are_not_taken_for_other_layers(families, tmp_path):
    family, _ = families
    source = dataclasses.replace(CASES["della"], shifts=SHIFT)
    statistics = WeightStatistics(family, tmp_path)
    plan = make_plan(two_layers(family, source), family, statistics)
    live = LiveModel.load(family["base"], "float32", ranks=statistics.ranks)
    live.materialize(plan, open_readers(family))
    expected = live_tensors(family, plan)
    for name, tensor in live.model.state_dict().items():
        assert torch.equal(expected[name], tensor), name


def test_a_layer_that_is_not_there(families):
    family, _ = families
    recipe = two_layers(family, merged(weight=0.5, shifts={"b": 2}))
    with pytest.raises(ConfigError, match=r"E119.*no layer 3; b has 3 layers"):
        make_plan(recipe, family, WeightStatistics(family))
    recipe = two_layers(family, merged(weight=0.5, shifts={"b": -1}))
    with pytest.raises(ConfigError, match=r"E119.*no layer -1; b has 3 layers"):
        make_plan(recipe, family, WeightStatistics(family))


def test_json_keeps_shifts_and_digests_without_them(families):
    family, _ = families
    plain, shifted = (two_layers(family, merged(weight=0.5, shifts=s)) for s in ({}, SHIFT))
    assert recipe_from_json(shifted.to_json()) == shifted
    assert "shifts" not in plain.to_json()["sources"]["merged"]
    assert plain.digest != shifted.digest
    nothing = plain.to_json()
    nothing["sources"]["merged"]["shifts"] = {"a": 0}
    assert recipe_from_json(nothing).digest == plain.digest


@pytest.mark.parametrize(
    ("shifts", "message"),
    [
        ({"base": 1}, r"E108.*sources\.merged\.shifts\.base: names no input"),
        ({"other": 1}, r"E108.*shifts\.other: names no input"),
        ({"b": 0.5}, r"E108.*shifts\.b: must be a whole number"),
    ],
)
def test_faults_of_shifts(families, shifts, message):
    data = two_layers(families[0], merged(weight=0.5)).to_json()
    data["sources"]["merged"]["shifts"] = shifts
    with pytest.raises(ConfigError, match=message):
        recipe_from_json(data)


@pytest.fixture(scope="module")
def adapted(families, tmp_path_factory):
    """An adapter of expert `a`, and what PEFT makes of both."""
    family, _ = families
    root = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(family["a"].path, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules=["up_proj", "o_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    tuned.save_pretrained(str(root / "lora"))
    plain = AutoModelForCausalLM.from_pretrained(family["a"].path, dtype=torch.float32)
    whole = PeftModel.from_pretrained(plain, root / "lora").merge_and_unload()
    return root / "lora", {name: tensor.clone() for name, tensor in whole.state_dict().items()}


def carry_out(recipe, folder):
    folder.mkdir()
    write_json(folder / "recipe.json", recipe.to_json())
    merge_recipe(folder / "recipe.json", folder / "out")
    return load_file(folder / "out" / "model.safetensors")


def base_and_adapted(family, lora, shifts):
    sources = {name: CheckpointSource(str(family[name].path)) for name in ("base", "a", "b")}
    sources["lora"] = CheckpointSource(str(lora), on="a")
    sources["merged"] = merged(
        "ties", ("lora", "b"), weight={"lora": 0.7, "b": 0.4}, density=0.6, shifts=shifts
    )
    path = (LayerStep("merged", 0), LayerStep("merged", 1))
    return Recipe(sources, path, dict.fromkeys(("embed", "final_norm", "head"), "merged"), "float32")


@pytest.mark.parametrize("shifts", [{}, {"lora": 1}, {"b": 1}])
def test_an_adapter_of_a_fine_tune_counts_as_the_model_it_makes(families, adapted, tmp_path, shifts):
    family, _ = families
    lora, tensors = adapted
    recipe = base_and_adapted(family, lora, shifts)
    assert recipe_from_json(recipe.to_json()) == recipe
    found = carry_out(recipe, tmp_path / "adapted")
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(tensors, str(whole / "model.safetensors"), metadata={"format": "pt"})
    (whole / "config.json").write_bytes((family["a"].path / "config.json").read_bytes())
    sources = {**recipe.sources, "lora": CheckpointSource(str(whole))}
    expected = carry_out(dataclasses.replace(recipe, sources=sources), tmp_path / "merged")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        # PEFT multiplies in one go; an entry at the threshold may go either way.
        different = int((~torch.isclose(found[name], tensor, rtol=1e-5, atol=1e-6)).sum())
        assert different <= tensor.numel() // 1000 + 1, name


def test_an_adapter_is_read_against_a_full_model(families, adapted):
    data = base_and_adapted(families[0], adapted[0], {}).to_json()
    data["sources"]["lora"]["on"] = "merged"
    with pytest.raises(ConfigError, match=r"E108.*sources\.lora\.on: an adapter is read against"):
        recipe_from_json(data)
    data["sources"]["lora"]["on"] = "lora"
    with pytest.raises(ConfigError, match=r"E108.*sources\.lora\.on"):
        recipe_from_json(data)


def test_layers_of_other_shapes(tmp_path):
    family = write_family(tmp_path, experts=("a",), num_hidden_layers=LAYERS)
    file = family["a"].path / "model.safetensors"
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(file) | {name: torch.zeros(24, 32, dtype=torch.bfloat16)}
    save_file(tensors, str(file), metadata={"format": "pt"})
    family = {name: open_folder(folder.path, name) for name, folder in family.items()}
    recipe = two_layers(family, merged(inputs=("a",), weight=0.5, shifts={"a": 1}))
    with pytest.raises(CheckpointError, match=r"E223.*layers\.1\.mlp\.up_proj.*differ in shape"):
        make_plan(recipe, family, WeightStatistics(family))
