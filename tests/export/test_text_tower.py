"""Decoders merged into the text tower of a multimodal model of the same backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader
from evomerge.checkpoint.text_tower import with_text_towers
from evomerge.cli.verify.invariants import verify
from evomerge.errors import CheckpointError
from evomerge.export.export import merge_recipe
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.prepare import prepare_statistics
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.json_form import recipe_from_json
from evomerge.testing.evaluators import byte_tokenizer
from tests.cli.terminal import call
from tests.other_models import DECODER, FAMILIES, inputs, tiny
from tests.tiny_models import write_campaign
from tests.tiny_runs import run_file

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": ("LlamaForCausalLM", {}),
    "gemma3": ("Gemma3ForCausalLM", {"head_dim": 8}),
    "qwen2_vl": (
        "Qwen2ForCausalLM",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    ),
}


def decoder(family: str, number: int, **fields: Any) -> Any:
    """A language model of the family's backbone."""
    name, own = DECODERS[family]
    kind: Any = getattr(transformers, name)
    torch.manual_seed(number)
    model = kind(kind.config_class(**{**DECODER, **own, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def stated(folder: Path, **fields: Any) -> dict[str, Any]:
    """Half of `one` and a quarter of `two` on the base, their text towers alone."""
    sources: dict[str, Any] = {
        name: {"path": str(folder / name), "checkpoint": ""} for name in ("base", "one", "two")
    }
    sources["merged"] = {
        "method": "task_arithmetic", "inputs": ["one", "two"], "base": "base",
        "coefficients": {"weight": {"one": 0.5, "two": 0.25}},
    }  # fmt: skip
    layers = open_folder(folder / "base", "base").layers
    return {
        "sources": sources, "path": [["merged", n] for n in range(layers)],
        "outer": {"embed": "merged", "final_norm": "merged", "head": "merged"},
        "dtype": "float32", "towers": "text", **fields,
    }  # fmt: skip


@pytest.mark.parametrize("family", DECODERS)
def test_the_text_tower_is_merged_and_all_else_stays(family: str, tmp_path: Path) -> None:
    base = tiny(family)
    base.save_pretrained(tmp_path / "base")
    experts = [decoder(family, number) for number in (1, 2)]
    for name, model in zip(("one", "two"), experts, strict=True):
        model.save_pretrained(tmp_path / name)
    data = stated(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(data))
    merge_recipe(tmp_path / "recipe.json", tmp_path / "out")

    kind: Any = getattr(transformers, FAMILIES[family][0])
    loaded, found = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
    # The oracle sets live modules, and knows no name of a checkpoint.
    text = base.get_decoder()
    weights = {
        name: 0.25 * tensor + 0.5 * one + 0.25 * two
        for (name, tensor), one, two in zip(
            text.state_dict().items(),
            *(expert.model.state_dict().values() for expert in experts),
            strict=True,
        )
    }
    with torch.inference_mode():
        before = base(**inputs(family)).logits.clone()
        text.load_state_dict(weights)
        head = base.get_output_embeddings().weight
        if head is not base.get_input_embeddings().weight:
            one, two = (expert.lm_head.weight for expert in experts)
            head.copy_(0.25 * head + 0.5 * one + 0.25 * two)
        ours, theirs = (model.eval()(**inputs(family)).logits for model in (loaded, base))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (before - theirs).abs().max() > 1e-2
    written = load_file(tmp_path / "out" / "model.safetensors")
    kept = load_file(tmp_path / "base" / "model.safetensors")
    seeing = [name for name in kept if "vision" in name or "visual" in name or "projector" in name]
    assert len(seeing) > 20
    assert all(torch.equal(written[name], kept[name]) for name in seeing)

    folders = with_text_towers(
        {name: open_folder(tmp_path / name, name) for name in ("base", "one", "two")}
    )
    readers = {name: TensorReader(each) for name, each in folders.items()}
    statistics = WeightStatistics(folders)
    live = LiveModel.load(folders["base"], "float32")
    live.materialize(make_plan(recipe_from_json(data), folders, statistics), readers)
    state = live.model.state_dict()
    assert all(torch.equal(b.view(state[b.parameter]), written[b.tensor]) for b in live.bindings)
    active = prepare_statistics(statistics, folders, "base", [], []).active["one"]
    assert active
    assert all(place.startswith("text.") or place == "head" for place in active)


def test_a_task_vector_is_measured_from_a_backbone_of_its_own_in_two_steps(tmp_path: Path) -> None:
    """Weights 1 and -1 put what an expert learned on the tower; that model is an expert like any other."""
    tiny("llava").save_pretrained(tmp_path / "base")
    models = [decoder("llava", number) for number in (1, 2)]
    for name, model in zip(("one", "two"), models, strict=True):
        model.save_pretrained(tmp_path / name)
    data = stated(tmp_path)
    data["sources"]["merged"]["coefficients"]["weight"] = {"one": 1.0, "two": -1.0}
    (tmp_path / "recipe.json").write_text(json.dumps(data))
    merge_recipe(tmp_path / "recipe.json", tmp_path / "moved")
    folders = {name: open_folder(tmp_path / name, name) for name in ("base", "moved")}
    base, moved = (TensorReader(folder) for folder in folders.values())
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    changed = 0
    for tensor in folders["base"].tensors:
        own = tensor.removeprefix("language_model.")
        learned = one[own] - two[own] if own in one else torch.zeros(())
        change = moved.read(tensor) - base.read(tensor)
        torch.testing.assert_close(change, learned.expand(change.shape), rtol=1e-4, atol=1e-6)
        changed += bool(change.any())
    assert changed == len(one)


def test_another_vocabulary_leaves_embedding_and_head_out(tmp_path: Path) -> None:
    tiny("llava").save_pretrained(tmp_path / "base")
    decoder("llava", 1, vocab_size=90).save_pretrained(tmp_path / "one")
    decoder("llava", 2).save_pretrained(tmp_path / "two")
    (tmp_path / "recipe.json").write_text(json.dumps(stated(tmp_path)))
    report = merge_recipe(tmp_path / "recipe.json", tmp_path / "out")
    assert "one: its embedding or head is left out; 90 tokens, the base has 96" in report.warnings
    name = "language_model.model.embed_tokens.weight"
    written, base = (load_file(tmp_path / part / "model.safetensors")[name] for part in ("out", "base"))
    two = load_file(tmp_path / "two" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(written, 0.75 * base + 0.25 * two, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    tiny("llava").save_pretrained(tmp_path / "base")
    decoder("llava", 1, num_hidden_layers=2).save_pretrained(tmp_path / "short")
    decoder("llava", 1, intermediate_size=40).save_pretrained(tmp_path / "thin")
    decoder("llava", 1, rope_parameters={"rope_type": "default", "rope_theta": 5e5}).save_pretrained(
        tmp_path / "turned"
    )
    folders = {name: open_folder(tmp_path / name, name) for name in ("base", "short", "thin", "turned")}
    for name, match in (
        ("short", r"E224.*number of layers.*text tower 3, short 2"),
        ("thin", r"E223.*mlp.*wrong shape.*base \[48, 32\], thin \[40, 32\]"),
        ("turned", r"E224.*rotary positions of another base.*500000"),
    ):
        with pytest.raises(CheckpointError, match=match):
            with_text_towers({"base": folders["base"], name: folders[name]})
    with pytest.raises(CheckpointError, match=r"E225.*base has no tower called `text`"):
        with_text_towers({"base": folders["short"], "thin": folders["thin"]})


def test_a_campaign_searches_the_text_tower_alone(tmp_path: Path) -> None:
    """Perplexity on a text, as of any language model."""
    tokenizer = byte_tokenizer()
    size = {"vocab_size": len(tokenizer)}
    text = {**FAMILIES["llava"][1]["text_config"], **size}
    tiny("llava", text_config=text, image_token_index=258).save_pretrained(tmp_path / "models" / "base")
    for number, name in enumerate(("one", "two"), 1):
        decoder("llava", number, **size).save_pretrained(tmp_path / "models" / name)
    for name in ("base", "one", "two"):
        tokenizer.save_pretrained(tmp_path / "models" / name)
    (tmp_path / "evaluators").mkdir()
    for name in ("prose", "list"):
        words = " ".join(f"{name} {n * 31 % 97} of {n}" for n in range(200))
        (tmp_path / "evaluators" / f"{name}.txt").write_text(words)
        declared = {
            "schema": 1,
            "kind": "perplexity",
            "name": name,
            "text": f"{name}.txt",
            "window": 60,
        }
        (tmp_path / "evaluators" / f"{name}.yaml").write_text(json.dumps(declared))
    file = write_campaign(
        tmp_path, experts=("one", "two"), evaluators=("prose", "list"), towers="text", dtype="float32",
        objectives=[
            {"metric": f"{name}.perplexity", "direction": "minimize"} for name in ("prose", "list")
        ],
        budget={"evaluations": 4}, optimizer={"population": 4},
    )  # fmt: skip
    checked = call("check", file, "--json")
    assert checked.code == 0, checked.out
    history = run_file(file, tmp_path / "run")
    assert verify(tmp_path / "run") == []
    prepared = history.prepared
    assert prepared is not None
    space = prepared_space(load_campaign(file), prepared, dict.fromkeys(prepared.checkpoints, ""))
    assert {gene.name.split(".")[2] for gene in space.genes} == {"text", "head"}
    shown = call("export", tmp_path / "run", "best:mean", tmp_path / "out", "--json")
    assert shown.code == 0, shown.out
    kind: Any = transformers.LlavaForConditionalGeneration
    _, found = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
