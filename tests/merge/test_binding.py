"""Binding: for many architectures the live model is what `from_pretrained` loads, bit for bit."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import CheckpointError
from evomerge.merge.binding import bind
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.skeleton import build_skeleton
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import CheckpointSource, single_source_recipe
from tests.checkpoint.folders import SIZES, llama, save

HEADS = {**SIZES, "head_dim": 8}
FAMILIES = {
    "llama": ("LlamaConfig", SIZES),
    "llama_tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", HEADS),
    "mistral": ("MistralConfig", SIZES),
    "gemma2": ("Gemma2Config", HEADS),
    "gemma3": ("Gemma3TextConfig", HEADS),
    "phi3": ("Phi3Config", {**SIZES, "pad_token_id": 0}),
    "gpt_neox": (
        "GPTNeoXConfig",
        {k: SIZES[k] for k in SIZES if k not in ("num_key_value_heads", "max_position_embeddings")},
    ),
    "olmo2": ("Olmo2Config", SIZES),
    "smollm3": ("SmolLM3Config", {**SIZES, "pad_token_id": 0}),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4}),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**HEADS, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_live_model_is_what_transformers_loads(tmp_path, family):
    kind, fields = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path)
    folder = open_folder(tmp_path, "base")
    folders = {"base": folder}
    live = LiveModel.load(folder, "float32")
    sources = {"base": CheckpointSource(str(tmp_path))}
    recipe = single_source_recipe(sources, "base", folder.layers, "float32")
    live.materialize(make_plan(recipe, folders, WeightStatistics(folders)), open_readers(folders))

    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    found = live.model.state_dict()
    for name, expected in reference.state_dict().items():
        assert torch.equal(found[name], expected), name
    for (name, expected), (_, buffer) in zip(
        reference.named_buffers(), live.model.named_buffers(), strict=True
    ):
        assert torch.equal(buffer, expected), name
    tokens = torch.arange(3, 20)[None]
    assert torch.equal(live.model(tokens).logits, reference(tokens).logits)
    # Every parameter is bound exactly once, and every layer has places of its own.
    elements = sum(torch.Size(b.shape).numel() for b in live.bindings)
    assert elements == sum(p.numel() for p in reference.parameters())
    assert {p.split(".")[1] for p in folder.layout.places if p.startswith("layers")} == {"0", "1"}


@pytest.fixture
def folder(tmp_path):
    save(llama(), tmp_path, torch.float32)
    return tmp_path


def rebind(folder, change):
    tensors = {n: t.clone() for n, t in load_file(str(folder / "model.safetensors")).items()}
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"))
    opened = open_folder(folder, "base")
    return bind(build_skeleton(opened, torch.float32), opened)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("model.norm.weight"), r"E220.*model\.norm\.weight"),
        (lambda t: t.update({"model.extra": torch.ones(3)}), r"E221.*model\.extra"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), r"E223.*model\.norm\.weight"),
        (
            lambda t: t.update({"norm.weight": torch.ones(32)}),
            r"E219.*model\.norm\.weight.*norm\.weight",
        ),
    ],
)
def test_faults_are_named(folder, change, match):
    with pytest.raises(CheckpointError, match=match):
        rebind(folder, change)


def test_head_missing_though_not_tied(folder):
    with pytest.raises(CheckpointError, match=r"E220.*lm_head\.weight"):
        rebind(folder, lambda tensors: tensors.pop("lm_head.weight"))


def test_a_mixture_without_one_expert_is_filled_in_part(tmp_path):
    kind, fields = FAMILIES["mixtral"]
    AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"E220.*filled in part.*elements"):
        rebind(tmp_path, lambda t: t.pop("model.layers.1.block_sparse_moe.experts.2.w3.weight"))


def test_unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llamma"}))
    with pytest.raises(CheckpointError, match="E203"):
        build_skeleton(open_folder(folder, "base"), torch.float32)


def test_remote_code_is_refused_without_asking(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="E235"):
        build_skeleton(open_folder(folder, "base"), torch.float32)
