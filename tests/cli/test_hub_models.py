"""Models by hub id and commit, from the local cache: sharded, tied, float16, and a LoRA adapter."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.folder import open_folder
from tests.cli.terminal import call
from tests.tiny_models import write_campaign, write_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def commit_of(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def put_into_cache(cache: Path, folder: Path) -> dict[str, str]:
    """A folder as the hub's client keeps it (`acme/NAME`, content in `blobs`); gives its reference."""
    root, commit = cache / f"models--acme--{folder.name}", commit_of(folder.name)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for path in folder.iterdir():
        blob = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, root / "blobs" / blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob)
    return {"hub": f"acme/{folder.name}", "revision": commit}


def shard(folder: Path) -> None:
    """Cut the weight file of a model folder into three shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        mine = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(mine, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def train_adapter(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """A random adapter with ranks and scales by pattern; gives PEFT's own merge in float16."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    }
    tuned = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(folder, save_embedding_layers=False)
    # What a person's adapter says of its base: the hub id.
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "acme/base"})
    )
    return {name: tensor.half() for name, tensor in tuned.merge_and_unload().state_dict().items()}


def test_a_campaign_on_hub_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    models = tmp_path / "c" / "models"
    tied = {"tie_word_embeddings": True}
    for number, name in ((None, "base"), (0, "math")):
        write_model(models / name, expert=number, dtype=torch.float16, **tied)
    merged = train_adapter(models / "base", models / "lora")
    shard(models / "base")
    references = {name: put_into_cache(cache, models / name) for name in ("base", "math", "lora")}
    file = write_campaign(
        tmp_path / "c",
        model=tied,
        experts=("math",),
        base=None,
        optimizer={"population": 4},
        budget={"evaluations": 4},
        baselines={"single": [0.5]},
        workers=None,
    )
    shutil.rmtree(models)
    config = json.loads(file.read_text()) | {"base": references["base"]}
    config["experts"] = {name: references[name] for name in ("math", "lora")}
    config["workers"] = {"pool": "inline", "count": 1}
    file.write_text(json.dumps(config))
    checked = call("check", file, "--json")
    assert checked.code == 0, checked.out
    assert checked.json["storage"] == "float16"
    assert checked.json["warnings"] == []  # the adapter's base is known by its hub id

    directory = tmp_path / "run"
    assert call("run", file, "--dir", directory, "--json").code == 0
    out = tmp_path / "out"
    exported = call("export", directory, "lora", out, "--json")
    assert exported.code == 0, exported.out
    written = open_folder(out, "out")
    assert written.tied
    weights = load_file(out / "model.safetensors")
    assert "lm_head.weight" not in weights
    for name, tensor in weights.items():
        # Half a unit in the last place either way: the sums are float32 in another order.
        torch.testing.assert_close(tensor, merged[name], rtol=2**-10, atol=1e-6)

    published = json.loads((out / "recipe.json").read_text())["sources"]
    assert published["lora"]["path"] == f"acme/lora@{commit_of('lora')}"
    again = call("merge", out / "recipe.json", tmp_path / "again", "--json")
    assert again.code == 0, again.out
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        out / "model.safetensors"
    ).read_bytes()
    evaluator = tmp_path / "c" / "evaluators" / "pets.yaml"
    model = f"acme/math@{commit_of('math')}"
    words = ("score", model, evaluator, "--split", "search", "--batch-size", 8)
    scored = call(*words, "--json").json
    shown = call("show", directory, "math", "--json").json
    assert scored["metrics"] == {"pets.acc": shown["scores"]["search"]["metrics"]["pets.acc"]}

    shutil.rmtree(cache / "models--acme--math")
    for verb in (("check", file), ("run", file, "--dir", tmp_path / "other"), words[:3]):
        refused = call(*verb, "--json")
        assert refused.code == 4, refused.out
        problem = refused.json["errors"][0]
        assert problem["code"] == "E201"
        assert "hf download acme/math --revision" in problem["todo"]
