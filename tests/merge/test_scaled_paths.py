"""Scales of the residual stream folded into weights: as if the stream had been multiplied on its way."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import CheckpointSource, Recipe
from evomerge.search_space import LayerPathSection, build_layer_paths
from tests.families import SIZES
from tests.merge.test_materialize import export

TOKENS = torch.arange(5, 45)[None]
PATH = ((0, 1.4), (1, 0.7), (1, 1.3), (2, 0.6), (4, 1.5), (3, 0.8), (4, 1.2), (5, 0.5))


def scaled_on_the_way(model, steps):
    """The model with layers in another order, the stream multiplied before each: no weight is touched."""
    layers = []
    for number, (layer, scale) in enumerate(steps):
        twin = copy.deepcopy(model.model.layers[layer])
        twin.self_attn.layer_idx = number

        def entering(_, args, kwargs, scale=scale):
            return (args[0] * scale, *args[1:]), kwargs

        twin.register_forward_pre_hook(entering, with_kwargs=True)
        layers.append(twin)
    found = copy.deepcopy(model)
    found.model.layers = torch.nn.ModuleList(layers)
    found.config.num_hidden_layers = len(layers)
    if getattr(found.config, "layer_types", None):
        found.config.layer_types = [model.config.layer_types[layer] for layer, _ in steps]
    return found


# Streams of random models are small, so that the norms' epsilon shows; without it only rounding is left.
@pytest.mark.parametrize(("epsilon", "within"), [(1e-6, 2e-3), (1e-12, 3e-6)])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral"])
def test_folded_scales_are_those_on_the_way(family, epsilon, within, tmp_path):
    torch.manual_seed(3)
    fields = {**SIZES, "num_hidden_layers": 6, "rms_norm_eps": epsilon, "tie_word_embeddings": False}
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**fields)).eval()
    if family == "Qwen2":
        for layer in model.model.layers:  # its biases begin at zero
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                torch.nn.init.normal_(projection.bias, std=0.02)
    model.save_pretrained(tmp_path / "base")
    base = open_folder(tmp_path / "base", "base")
    section = LayerPathSection.model_validate(
        {"sources": ["base"], "outer": "base", "scale": {"low": 0.5, "high": 1.5, "step": 0.1}}
    )
    paths = build_layer_paths(section, 6, ("math",), "")
    assert paths.is_spelled(PATH)
    recipe = Recipe(
        {"base": CheckpointSource(str(tmp_path / "base"))},
        paths.layer_steps(PATH),
        dict.fromkeys(("embed", "final_norm", "head"), "base"),
        "float32",
    )
    assert paths.read(recipe.path) == PATH
    sources = {"base": base}
    plan, readers = make_plan(recipe, sources, WeightStatistics(sources)), open_readers(sources)
    live = LiveModel.load(base, "float32", max_layers=8)
    live.materialize(plan, readers)
    folder = export(plan, readers, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text()) | dict(plan.config)
    (folder / "config.json").write_text(json.dumps(config))
    exported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found = exported(TOKENS).logits
        assert torch.equal(live.model(TOKENS).logits, found)
        expected = scaled_on_the_way(model, PATH)(TOKENS, use_cache=False).logits
        plain = [(layer, 1.0) for layer, _ in PATH]
        unscaled = scaled_on_the_way(model, plain)(TOKENS, use_cache=False).logits
    assert float((found - expected).abs().max()) < within
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert float((unscaled - expected).abs().max()) > 20 * within


def test_size_counts_what_an_export_holds(tmp_path):
    config = transformers.LlamaConfig(**{**SIZES, "tie_word_embeddings": True})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    base = open_folder(tmp_path / "base", "base")
    sources = {"base": base}
    section = LayerPathSection(sources=["base"], outer="base", max_repeats=3, max_layers=4)
    paths = build_layer_paths(section, 2, (), "")
    recipe = Recipe(
        {"base": CheckpointSource(str(tmp_path / "base"))},
        paths.layer_steps([(1, 1.0), (0, 1.0), (1, 1.0), (1, 1.0)]),
        dict.fromkeys(("embed", "final_norm"), "base"),
    )
    plan, readers = make_plan(recipe, sources, WeightStatistics(sources)), open_readers(sources)
    live = LiveModel.load(base, "bfloat16", max_layers=2)
    assert live.materialize(plan, readers).tensors_written == 2 * 9 + 2
    (tmp_path / "size.yaml").write_text("schema: 1\nname: size\nkind: size\n")
    evaluator = open_evaluator(load_declaration(tmp_path / "size.yaml"))
    found = evaluator.measure(type("Subject", (), {"model": live.model}))
    stored = sum(torch.Size(entry.shape).numel() for entry in plan.tensors)
    sizes = {"parameters": [float(stored)], "active_parameters": [float(stored)]}
    assert found == {**sizes, "layers": [4.0]}
