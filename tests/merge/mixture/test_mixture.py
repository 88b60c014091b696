"""Mixtures of dense models: the dense model if all are alike, gates from prompts, and what is refused."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from evomerge.errors import CheckpointError, ConfigError
from evomerge.export.mixture import write_mixture
from tests.checkpoint.folders import SIZES, save
from tests.clean_process import printed_by
from tests.tiny_models import write_model

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"rms_norm_eps": 1e-4, "rope_theta": 5e3}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
}
TOKENS = torch.arange(3, 23)[None]


def dense(kind, folder, seed=0, dtype=torch.float32, **fields):
    config, model, own = KINDS[kind]
    torch.manual_seed(seed)
    made = model(config(**{**SIZES, **own, **fields}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save(made, folder, dtype)


def written(folder, **fields):
    stated = {"base_model": "base", "gate_mode": "random", "dtype": "float32", **fields}
    (folder / "moe.yaml").write_text(json.dumps(stated))
    return write_mixture(folder / "moe.yaml", folder / "out", overwrite=True)


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_identical_experts_are_the_dense_model(tmp_path, kind):
    dense(kind, tmp_path / "base")
    for count, per_token in ((2, 1), (3, 2)):
        report = written(
            tmp_path, experts=[{"source_model": "base"}] * count, experts_per_token=per_token
        )
        torch.testing.assert_close(
            logits(tmp_path / "out"), logits(tmp_path / "base"), rtol=1e-4, atol=1e-5
        )
        assert report.parameters > report.active
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_experts_per_tok"] == 2


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_layers_that_are_not_named_stay_dense(tmp_path, kind):
    dense(kind, tmp_path / "base")
    dense(kind, tmp_path / "a", 1)
    experts = [{"source_model": "base"}] * 3
    every = written(tmp_path, experts=experts)
    some = written(tmp_path, experts=experts, layers=[1])
    assert some.architecture == "Qwen2MoeForCausalLM"
    assert some.active < every.active
    assert some.parameters < every.parameters
    torch.testing.assert_close(
        logits(tmp_path / "out"), logits(tmp_path / "base"), rtol=1e-4, atol=1e-5
    )
    written(tmp_path, experts=[{"source_model": "a"}] * 2, layers=[1])
    base, other, found = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "a", "out"))
    assert torch.equal(
        found["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"]
    )
    assert torch.equal(
        found["model.layers.1.mlp.experts.1.up_proj.weight"], other["model.layers.1.mlp.up_proj.weight"]
    )
    with pytest.raises(ConfigError, match=r"E110.*layers: the base has layers 0 to 1; found 7"):
        written(tmp_path, experts=experts, layers=[1, 7])


def test_each_expert_is_one_model_and_all_at_equal_gates_their_mean(tmp_path):
    for seed, name in enumerate(("base", "a", "b")):
        dense("llama", tmp_path / name, seed)
    written(tmp_path, experts=[{"source_model": "a"}, {"source_model": "b"}], experts_per_token=2)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for expert, name in enumerate(("a", "b")):
        own = load_file(tmp_path / name / "model.safetensors")
        for theirs, ours in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
            place = f"model.layers.1.block_sparse_moe.experts.{expert}.{ours}.weight"
            assert torch.equal(found[place], own[f"model.layers.1.mlp.{theirs}.weight"])
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], base["lm_head.weight"])
    gate = found["model.layers.0.block_sparse_moe.gate.weight"]
    assert gate.shape == (2, SIZES["hidden_size"])
    assert 0.01 < float(gate.std()) < 0.03


def inputs_of_mlps(model, ids):
    seen = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda m, given, out: seen.append(given[0][0, -1]))
    model(ids)
    return seen


@pytest.mark.parametrize("mode", ["hidden", "cheap_embed"])
def test_gates_from_prompts_prefer_the_expert_they_are_of(tmp_path, mode):
    write_model(tmp_path / "base")
    write_model(tmp_path / "other", expert=0)
    prompts = {"base": ["the cat is here"], "other": ["dogs run far away"]}
    experts = [{"source_model": n, "positive_prompts": p} for n, p in prompts.items()]
    written(tmp_path, experts=experts, gate_mode=mode)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    gates = [
        tensor
        for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
        if name.endswith(".gate.weight")
    ]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    for own, texts in enumerate(prompts.values()):
        ids = torch.tensor([tokenizer(texts[0])["input_ids"]])
        if mode == "cheap_embed":
            seen = [model.get_input_embeddings()(ids)[0].mean(0)] * len(gates)
        else:
            seen = inputs_of_mlps(model, ids)
        for gate, inside in zip(gates, seen, strict=False):
            torch.testing.assert_close(gate.norm(dim=1), torch.ones(2), rtol=1e-5, atol=1e-5)
            scores = gate @ inside
            assert scores.argmax() == own
            torch.testing.assert_close(scores[own], inside.norm(), rtol=1e-4, atol=1e-5)


def lora(base, folder, seed):
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = ["q_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(seed)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, target_modules=names))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload().model


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_arrow_is_that_of_the_paper_by_a_linear_router(tmp_path):
    for seed, name in enumerate(("base", "a", "b")):
        dense("llama", tmp_path / name, seed)
    base, *models = [
        LlamaForCausalLM.from_pretrained(tmp_path / n, dtype=torch.float32).model
        for n in ("base", "a", "b")
    ]
    models.append(lora(tmp_path / "base", tmp_path / "c", 4))
    experts = [{"source_model": name} for name in "abc"]
    report = written(tmp_path, experts=experts, gate_mode="arrow", temperature=0.5)
    assert report.experts == 6
    mixture = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    x = torch.randn(1, 9, SIZES["hidden_size"], generator=torch.Generator().manual_seed(3))
    for number, layer in enumerate(mixture.model.layers):
        mlps = [each.layers[number].mlp for each in models]
        own = base.layers[number].mlp
        scores, outs = [], []
        with torch.no_grad():
            for mlp in mlps:
                rows = [
                    mlp.gate_proj.weight - own.gate_proj.weight,
                    mlp.up_proj.weight - own.up_proj.weight,
                ]
                prototype = torch.linalg.svd(torch.cat(rows)).Vh[0]
                scores.append((x @ prototype).abs() / 0.5)
                outs.append(mlp(x))
            found = getattr(layer, "block_sparse_moe", layer.mlp)(x)
        best, chosen = torch.stack(scores, -1).topk(2)
        outputs = torch.stack(outs, -2).gather(-2, chosen[..., None].expand(*chosen.shape, x.shape[-1]))
        expected = (best.softmax(-1)[..., None] * outputs).sum(-2)
        found = found[0] if isinstance(found, tuple) else found
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # An expert that learned nothing has no direction, and a mixture of such is the base.
    written(tmp_path, experts=[{"source_model": "base"}] * 2, gate_mode="arrow")
    torch.testing.assert_close(
        logits(tmp_path / "out"), logits(tmp_path / "base"), rtol=1e-4, atol=1e-5
    )


def test_experts_cut_to_a_rank_and_sides_from_prompts(tmp_path):
    write_model(tmp_path / "base")
    write_model(tmp_path / "a", expert=0)
    write_model(tmp_path / "b", expert=1)
    experts = [{"source_model": n, "positive_prompts": ["the cat is here"]} for n in "ab"]
    report = written(tmp_path, experts=experts, gate_mode="arrow", sides="prompts", rank=2)
    assert report.experts == 2
    found = load_file(tmp_path / "out" / "model.safetensors")
    origin, own = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "a"))
    name = "model.layers.1.mlp.down_proj.weight"
    u, s, v = np.linalg.svd((own[name].float() - origin[name].float()).double().numpy())
    expected = origin[name].double().numpy() + (u[:, :2] * s[:2]) @ v[:2]
    cut = found["model.layers.1.block_sparse_moe.experts.0.w2.weight"].numpy()
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    seen = inputs_of_mlps(model, torch.tensor([tokenizer("the cat is here")["input_ids"]]))
    for number, inside in enumerate(seen):
        gate = found[f"model.layers.{number}.block_sparse_moe.gate.weight"]
        assert bool((gate @ inside > 0).all())


def test_loads_in_a_process_that_knows_nothing_of_us(tmp_path):
    dense("llama", tmp_path / "base")
    written(tmp_path, experts=[{"source_model": "base"}] * 2, dtype="bfloat16")
    script = (
        "import sys, torch; from transformers import AutoModelForCausalLM as M;"
        "m, i = M.from_pretrained(sys.argv[1], output_loading_info=True);"
        "assert not i['missing_keys'] and not i['unexpected_keys'], i;"
        "print(type(m).__name__, m(torch.tensor([[1, 2]])).logits.isfinite().all().item())"
    )
    assert printed_by(script, str(tmp_path / "out")).split() == ["MixtralForCausalLM", "True"]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"experts": [{"source_model": "base"}]}, r"E1\d\d.*experts"),
        ({"experts_per_token": 3}, "E110.*at most the number of experts; found 3 of 2"),
        ({"gate_mode": "hidden"}, "E119.*needs positive_prompts of every expert"),
        ({"gate": "hidden"}, "E104"),
        ({"sides": "prompts"}, "E119.*`sides` goes with gate_mode arrow, not random"),
        (
            {"gate_mode": "arrow", "sides": "prompts"},
            "E119.*arrow, sides prompts, needs positive_prompts",
        ),
        ({"temperature": 0.0}, "E108.*temperature"),
    ],
)
def test_faults_of_the_file(tmp_path, fields, match):
    with pytest.raises(ConfigError, match=match):
        written(tmp_path, **{"experts": [{"source_model": "base"}] * 2, **fields})
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_and_architectures_without_a_mixture(tmp_path):
    dense("llama", tmp_path / "base")
    dense("llama", tmp_path / "wide", intermediate_size=64)
    with pytest.raises(CheckpointError, match="wide"):
        written(tmp_path, experts=[{"source_model": "base"}, {"source_model": "wide"}])
    dense("mistral", tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"E234.*sliding_window: no mixture.*leave `layers` out"):
        written(tmp_path, experts=[{"source_model": "base"}] * 2, layers=[0])
    dense("llama", tmp_path / "base", mlp_bias=True)
    with pytest.raises(CheckpointError, match=r"E234.*model_type llama with mlp_bias"):
        written(tmp_path, experts=[{"source_model": "base"}] * 2)
    assert not (tmp_path / "out").exists()
