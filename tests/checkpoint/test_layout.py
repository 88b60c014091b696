"""The finest places of tensors, over the names of many families."""

from __future__ import annotations

import pytest

from evomerge.checkpoint.header import TensorHeader
from evomerge.checkpoint.layout import layer_names, places_of, tensor_places_of
from evomerge.recipe.places import lookup

SHAPES = {"1": (4,), "2": (4, 4), "3": (2, 4, 4)}
FAMILIES: dict[str, dict[str, str]] = {
    # Tensor, with its number of axes, to its finest place.
    "llama_with_biases": {
        "model.embed_tokens.weight 2": "embed",
        "model.layers.0.self_attn.q_proj.weight 2": "layers.0.attn.self_attn.q_proj",
        "model.layers.0.self_attn.q_proj.bias 1": "layers.0.attn.self_attn.q_proj",
        "model.layers.0.self_attn.q_norm.weight 1": "layers.0.norm",
        "model.layers.0.mlp.up_proj.weight 2": "layers.0.mlp.mlp.up_proj",
        "model.layers.0.input_layernorm.weight 1": "layers.0.norm",
        "model.layers.0.post_attention_layernorm.weight 1": "layers.0.norm",
        "model.norm.weight 1": "final_norm",
        "lm_head.weight 2": "head",
    },
    "gpt2": {
        "h.0.attn.c_attn.weight 2": "layers.0.attn.attn.c_attn",
        "h.0.attn.c_attn.bias 1": "layers.0.attn.attn.c_attn",
        "h.0.ln_1.bias 1": "layers.0.norm",
    },
    "deepseek": {
        "model.layers.11.mlp.experts.0.up_proj.weight 2": "layers.11.mlp.mlp.experts.up_proj",
        "model.layers.11.mlp.experts.10.up_proj.weight 2": "layers.11.mlp.mlp.experts.up_proj",
        "model.layers.11.mlp.shared_experts.up_proj.weight 2": "layers.11.mlp.mlp.shared_experts.up_proj",
        "model.layers.11.mlp.gate.weight 2": "layers.11.mlp.mlp.gate",
        "model.layers.11.mlp.gate.e_score_correction_bias 1": "layers.11.mlp.mlp.gate",
    },
    "gpt_oss": {
        "model.layers.0.mlp.experts.gate_up_proj 3": "layers.0.mlp.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj 3": "layers.0.mlp.mlp.experts.down_proj",
        "model.layers.0.self_attn.sinks 1": "layers.0.attn.self_attn.sinks",
    },
    "mamba": {
        "backbone.layers.0.mixer.A_log 2": "layers.0.other.mixer.A_log",
        "backbone.layers.0.mixer.D 1": "layers.0.other.mixer.D",
        "backbone.layers.0.mixer.conv1d.weight 3": "layers.0.other.mixer.conv1d",
        "backbone.layers.0.mixer.conv1d.bias 1": "layers.0.other.mixer.conv1d",
    },
    "numbered_matrices": {
        "model.layers.0.mlp.0.weight 2": "layers.0.mlp.mlp.0",
        "model.layers.0.mlp.2.weight 2": "layers.0.mlp.mlp.2",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_is_a_place_and_the_norms_of_a_layer_are_one(family: str) -> None:
    wanted = {name.split()[0]: place for name, place in FAMILIES[family].items()}
    shapes = {name.split()[0]: SHAPES[name.split()[1]] for name in FAMILIES[family]}
    tensors = {
        name: TensorHeader("model.safetensors", "float32", shape, 0, 4)
        for name, shape in shapes.items()
    }
    found = tensor_places_of(tensors)
    assert found == wanted
    names = layer_names(tensors)
    for name, place in places_of(tensors).items():
        # What a plan looks up finds the entry of its own place, and no other.
        split = names.split(name)
        assert (
            lookup(
                dict.fromkeys(found.values(), "") | {found[name]: name},
                f"{place}.{name if split is None else split[1]}",
            )
            == name
        )
