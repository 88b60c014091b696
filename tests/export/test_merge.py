"""Recipes made by hand, carried out without a campaign."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from evomerge.errors import (
    CheckpointError,
    ConfigError,
    ExportCheckFailed,
)
from evomerge.export.export import merge_recipe
from evomerge.ledger.history import History
from evomerge.recipe.recipe import CheckpointSource, MergedSource, identity_path
from tests.cli.terminal import call
from tests.export.finished import (
    Finished,
    flip_last,
    hand_made,
    write_recipe,
)
from tests.files.test_staging import names
from tests.tiny_models import write_model


def write_adapter(folder: Path, rank: int = 4, alpha: float = 8.0) -> dict[str, torch.Tensor]:
    """A LoRA adapter of the tiny base on its query projections; returns its deltas in float64."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    factors, deltas = {}, {}
    for layer in range(2):
        module = f"model.layers.{layer}.self_attn.q_proj"
        a = torch.randn(rank, 32, generator=generator)
        b = torch.randn(32, rank, generator=generator)
        prefix = f"base_model.model.{module}"
        factors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
        deltas[f"{module}.weight"] = alpha / rank * b.double() @ a.double()
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    return deltas


def test_paths_are_relative_to_the_recipe(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.root / "models", tmp_path / "models")
    sources = {
        name: CheckpointSource(f"models/{name}") if isinstance(source, CheckpointSource) else source
        for name, source in hand_made(finished).sources.items()
    }
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=sources))
    report = merge_recipe(file, tmp_path / "out")
    published = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert {s["path"] for s in published["sources"].values() if "path" in s} == {
        "../models/base",
        "../models/math",
        "../models/code",
    }
    # The digests that were left out are filled in, and so the published recipe refuses other weights.
    assert all(len(s["checkpoint"]) == 64 for s in published["sources"].values() if "path" in s)
    assert report.recipe != hand_made(finished).digest
    assert merge_recipe(tmp_path / "out" / "recipe.json", tmp_path / "again").recipe == report.recipe
    weights = tmp_path / "models" / "math" / "model.safetensors"
    weights.write_bytes(flip_last(weights.read_bytes()))
    with pytest.raises(CheckpointError, match=r"E239.*`math` are not those the recipe means"):
        merge_recipe(tmp_path / "out" / "recipe.json", tmp_path / "third")


def test_stacked_layers_and_another_dtype(finished: Finished, tmp_path: Path) -> None:
    path = (*identity_path(2), *identity_path(2, "math")[1:])
    recipe = hand_made(finished, path=path, dtype="float32")
    merge_recipe(write_recipe(tmp_path / "recipe.json", recipe), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["dtype"]) == (3, "float32")
    written = load_file(tmp_path / "out" / "model.safetensors")
    own = finished.weights("math")
    rest = "self_attn.q_proj.weight"
    assert torch.equal(written[f"model.layers.2.{rest}"], own[f"model.layers.1.{rest}"].float())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


def test_an_adapter_is_merged_into_a_full_model(finished: Finished, tmp_path: Path) -> None:
    deltas = write_adapter(tmp_path / "lora")
    base = CheckpointSource(str(finished.model("base")))
    merged = MergedSource("task_arithmetic", ("lora",), "base", {"weight": {"lora": {"": 0.5}}})
    # The adapter stands first: it is opened after the base all the same.
    sources = {"lora": CheckpointSource("lora"), "base": base, "merged": merged}
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=sources, dtype="float32"))
    merge_recipe(file, tmp_path / "out")
    written, own = load_file(tmp_path / "out" / "model.safetensors"), finished.weights("base")
    assert set(written) == set(own)
    for name, tensor in written.items():
        reference = own[name].double() + 0.5 * deltas.get(name, torch.zeros(()).double())
        assert torch.allclose(tensor.double(), reference, rtol=0, atol=1e-5), name
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_an_adapter_without_its_base(finished: Finished, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora")
    recipe = {
        "sources": {"lora": {"path": "lora"}},
        "path": [["lora", 0], ["lora", 1]],
        "outer": dict.fromkeys(("embed", "final_norm", "head"), "lora"),
        "tokenizer": "lora",
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(CheckpointError, match=r"E204.*lora is an adapter, not a full model"):
        merge_recipe(tmp_path / "recipe.json", tmp_path / "out")


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "math", "code")):
        write_model(tmp_path / "models" / name, expert=number or None, tie_word_embeddings=True)
    tied = Finished(tmp_path, tmp_path, History())
    merge_recipe(write_recipe(tmp_path / "recipe.json", hand_made(tied)), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_without_a_tokenizer_is_merged_with_a_warning(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "math", "code")):
        write_model(tmp_path / "models" / name, expert=number or None, tokenizer=False)
    plain = Finished(tmp_path, tmp_path, History())
    file = write_recipe(tmp_path / "recipe.json", hand_made(plain))
    report = merge_recipe(file, tmp_path / "out")
    assert report.warnings == ("base has no tokenizer files, and so has the export",)


def test_faults_of_a_recipe_file(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"E101.*recipe.json: no such file; check the path"):
        merge_recipe(tmp_path / "recipe.json", out)
    (tmp_path / "recipe.json").write_text("method: ties\n")
    with pytest.raises(ConfigError, match=r"E102.*a recipe is a JSON file"):
        merge_recipe(tmp_path / "recipe.json", out)
    (tmp_path / "config.json").write_text('{"architectures": [], "hidden_size": 8, "sources": {}}')
    no_merge = r"E103\] .*config.json: this states no merge; it has `architectures`, `hidden_size`, .*"
    with pytest.raises(
        ConfigError, match=no_merge + "give a recipe in JSON, such as `recipe.json`"
    ) as one:
        merge_recipe(tmp_path / "config.json", out)
    assert len(one.value.problems) == 1
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"E101.*: this is a folder, no file; give a recipe in JSON"):
        merge_recipe(tmp_path, out)
    (tmp_path / "merge.yml").write_text("merge_method: linear\nmodels: [\n")
    with pytest.raises(ConfigError, match=r"E102.*merge.yml:3:1: YAML syntax"):
        merge_recipe(tmp_path / "merge.yml", out)
    (tmp_path / "merge.yml").write_text("")
    with pytest.raises(ConfigError, match=r"E103.*merge.yml: .*the file is empty"):
        merge_recipe(tmp_path / "merge.yml", out)
    (tmp_path / "merge.yml").unlink()
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, tokenizer="merged"))
    with pytest.raises(
        ConfigError, match=r"E138.*tokenizer: names no checkpoint source; found 'merged'"
    ):
        merge_recipe(file, out)
    gone = {**hand_made(finished).sources, "base": CheckpointSource(f"org/name@{'0' * 40}")}
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=gone))
    with pytest.raises(CheckpointError, match=r"E201\] base: .*org/name is not in the local hub cache"):
        merge_recipe(file, out)
    gone = {
        **hand_made(finished).sources,
        "math": CheckpointSource("nowhere"),
        "code": CheckpointSource("nor here"),
    }
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished, sources=gone))
    with pytest.raises(CheckpointError, match=r"E201.*math: no such folder") as raised:
        merge_recipe(file, out)
    assert len(raised.value.problems) == 2
    assert names(tmp_path) == ["recipe.json"]


def test_weights_that_overflow_are_not_published(finished: Finished, tmp_path: Path) -> None:
    merged = MergedSource("task_arithmetic", ("math",), "base", {"weight": {"math": {"": 1e6}}})
    sources = {**hand_made(finished).sources, "merged": merged}
    recipe = hand_made(finished, sources=sources, dtype="float16")
    file = write_recipe(tmp_path / "recipe.json", recipe)
    with pytest.raises(
        ExportCheckFailed, match=r"E602.*the merge has no finite result.*has NaN or inf"
    ):
        merge_recipe(file, tmp_path / "out")
    assert names(tmp_path) == ["recipe.json"]


def test_the_source_with_nan_is_named(tmp_path: Path) -> None:
    """Not the merge; its tensor too, and nothing is written."""
    for name, expert in (("base", None), ("math", 0), ("code", 1)):
        write_model(tmp_path / name, expert=expert, tokenizer=False)
    weights = load_file(str(tmp_path / "code" / "model.safetensors"))
    own = "model.layers.1.mlp.up_proj.weight"
    weights[own] = weights[own].clone()
    weights[own][2, 3] = torch.nan
    save_file(weights, str(tmp_path / "code" / "model.safetensors"))
    file = tmp_path / "merge.yaml"
    models = "".join(f"- model: {n}\n  parameters: {{weight: 0.5}}\n" for n in ("math", "code"))
    file.write_text(f"merge_method: task_arithmetic\nbase_model: base\nmodels:\n{models}")
    with pytest.raises(
        CheckpointError, match=rf"E232.*{own}: code has NaN or infinite weights; 1 elements"
    ):
        merge_recipe(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_campaign_is_no_merge(tmp_path: Path) -> None:
    file = tmp_path / "campaign.yaml"
    for text in ("schema: 1\nsearch_space: a.yaml\n", '{"search_space": "a.yaml"}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"this is a campaign.*evomerge run") as caught:
            merge_recipe(file, tmp_path / "out")
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("schema: 1\nkind: lm_eval\nname: math\n", "an evaluator; it has `kind`"),
        ("schema: 1\nmethod: ties\ncoefficients: {}\n", "a search space; it has `method`"),
        ("campaign: a.yaml\narms: {}\n", "the arms of a study; it has `arms`"),
    ],
)
def test_a_file_of_another_form_is_no_merge(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    words = f"E103.*this is {what}; give a recipe in JSON, .*, or a mergekit YAML$"
    with pytest.raises(ConfigError, match=words) as caught:
        merge_recipe(file, tmp_path / "out")
    assert len(caught.value.problems) == 1


def test_a_merge_that_lacks_its_method_is_told_of_that(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("method: ties\nmodels: [{model: math}]\n")
    with pytest.raises(ConfigError, match=r"E103.* merge_method: missing field"):
        merge_recipe(file, tmp_path / "out")


def test_a_model_of_another_architecture_is_blamed_and_not_a_sound_one(tmp_path: Path) -> None:
    """A GPT-2 of six layers as the base of a Llama of two."""
    write_model(tmp_path / "math", expert=0)
    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=6, n_head=4, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    file = tmp_path / "merge.yaml"
    for base, expert in (("math", "gpt2"), ("gpt2", "math")):
        models = f"- model: {expert}\n  parameters: {{weight: 1}}\n"
        file.write_text(f"merge_method: task_arithmetic\nbase_model: {base}\nmodels:\n{models}")
        with pytest.raises(CheckpointError, match=r"E225.*architectures cannot be merged.*gpt2"):
            merge_recipe(file, tmp_path / "out")


def test_other_rotary_positions_are_merged_where_they_are_allowed(tmp_path: Path) -> None:
    """By a mergekit YAML with a warning, by a recipe where its source says so; the result has the base's."""
    write_model(tmp_path / "base", rope_theta=10_000.0)
    write_model(tmp_path / "long", expert=0)
    config = json.loads((tmp_path / "long" / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    file = tmp_path / "merge.yaml"
    models = "- model: long\n  parameters: {weight: 0.5}\n"
    file.write_text(f"merge_method: task_arithmetic\nbase_model: base\nmodels:\n{models}")
    report = merge_recipe(file, tmp_path / "out")
    (warning,) = [text for text in report.warnings if "rotary" in text]
    assert "rope_theta: base 10000.0, long 1000000.0; allowed: the merge takes those of base" in warning
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_parameters"]["rope_theta"] == written["rope_theta"] == 10_000.0
    # The recipe of the export says it too, and has the digest it would have without.
    stated = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert stated["sources"]["long"]["allow"] == ["rope"]
    assert merge_recipe(tmp_path / "out" / "recipe.json", tmp_path / "again").recipe == report.recipe
    # Whose the result has may be chosen, in the recipe and by the command.
    (tmp_path / "out" / "chosen.json").write_text(json.dumps({**stated, "rope": "long"}))
    merge_recipe(tmp_path / "out" / "chosen.json", tmp_path / "chosen")
    assert call("merge", file, tmp_path / "said", "--rope", "long").code == 0
    for name in ("chosen", "said"):
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert written["rope_parameters"]["rope_theta"] == written["rope_theta"] == 1e6
        assert json.loads((tmp_path / name / "recipe.json").read_text())["rope"] == "long"
    with pytest.raises(ConfigError, match=r"E138.*rope: the rotary positions are those of no source"):
        merge_recipe(file, tmp_path / "refused", rope="other")
    del stated["sources"]["long"]["allow"]
    (tmp_path / "out" / "refused.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"E245.*rope_theta: base 10000.0.*`allow: \[rope\]`"):
        merge_recipe(tmp_path / "out" / "refused.json", tmp_path / "refused")
    stated["sources"]["long"]["allow"] = ["heads"]
    (tmp_path / "out" / "refused.json").write_text(json.dumps(stated))
    with pytest.raises(
        ConfigError, match=r"sources.long.allow: no difference that can be allowed.*rope"
    ):
        merge_recipe(tmp_path / "out" / "refused.json", tmp_path / "refused")


def test_an_untied_head_equal_to_the_embedding_is_a_tied_one(tmp_path: Path) -> None:
    for name, expert in (("base", None), ("math", 0)):
        write_model(tmp_path / name, expert=expert, tie_word_embeddings=True)
    config = json.loads((tmp_path / "math" / "config.json").read_text())
    (tmp_path / "math" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = dict(load_file(str(tmp_path / "math" / "model.safetensors")))
    file = tmp_path / "merge.yaml"
    models = "- model: math\n  parameters: {weight: 1.0}\n"
    file.write_text(f"merge_method: task_arithmetic\nbase_model: base\nmodels:\n{models}")
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    head = weights["model.embed_tokens.weight"].clone()
    save_file({**weights, "lm_head.weight": head}, str(tmp_path / "math" / "model.safetensors"))
    merge_recipe(file, tmp_path / "out")
    written = load_file(str(tmp_path / "out" / "model.safetensors"))
    assert written.keys() == weights.keys()


def test_a_head_that_differs_gives_the_base_one_of_its_own(tmp_path: Path) -> None:
    for name, expert in (("base", None), ("math", 0)):
        write_model(tmp_path / name, expert=expert, dtype=torch.float32, tie_word_embeddings=True)
    config = json.loads((tmp_path / "math" / "config.json").read_text())
    (tmp_path / "math" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(str(tmp_path / "math" / "model.safetensors"))
    head = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file({**weights, "lm_head.weight": head}, str(tmp_path / "math" / "model.safetensors"))
    file = tmp_path / "merge.yaml"
    models = "- model: math\n  parameters: {weight: [{filter: lm_head, value: 0.5}, {value: 0.25}]}\n"
    file.write_text(
        f"merge_method: task_arithmetic\nbase_model: base\nmodels:\n{models}dtype: float32\n"
    )
    report = merge_recipe(file, tmp_path / "out")
    assert any("the result has a head of its own" in text for text in report.warnings)
    base = load_file(str(tmp_path / "base" / "model.safetensors"))["model.embed_tokens.weight"]
    expected = base + 0.5 * (head - base)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.config.tie_word_embeddings
    torch.testing.assert_close(model.lm_head.weight.detach(), expected, rtol=0, atol=1e-6)
    # Stated by the recipe, and by a file of mergekit's that says the same tensors.
    stated = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert stated.pop("heads") == "untie"
    for again in ("recipe.json", "mergekit_config.yml"):
        merge_recipe(tmp_path / "out" / again, tmp_path / "again", overwrite=True)
        same = load_file(str(tmp_path / "again" / "model.safetensors"))
        torch.testing.assert_close(same["lm_head.weight"], expected, rtol=0, atol=1e-6)
    (tmp_path / "out" / "tied.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"E229.*tied in one only.*`heads: untie` in a campaign"):
        merge_recipe(tmp_path / "out" / "tied.json", tmp_path / "refused")
