"""A campaign whose experts are adapters: one used by its factors, one that PEFT merges first."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.cli.verify.invariants import verify
from evomerge.export.export import export_candidate
from evomerge.recipe.json_form import recipe_from_json
from tests.checkpoint.test_vocabulary import change_tokens
from tests.cli.terminal import call
from tests.tiny_adapters import write_adapter
from tests.tiny_models import write_campaign
from tests.tiny_runs import killed_at, run_file

pytestmark = pytest.mark.filterwarnings("ignore")


def train(base: Path, folder: Path, seed: int, **fields: object) -> None:
    shape = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]}
    write_adapter(base, folder, seed, **shape, **fields)


def as_people_do(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign folder that has run to its end."""
    root = tmp_path_factory.mktemp("adapters")
    file = write_campaign(
        root, evaluators=("pets",), budget={"evaluations": 4}, optimizer={"population": 4}
    )
    models = root / "models"
    for name in ("math", "code"):
        shutil.rmtree(models / name)
    train(models / "base", models / "math", 1)
    train(models / "base", models / "code", 2, use_dora=True)
    checked = call("check", file, "--json")
    assert checked.code == 0, checked.out
    (note,) = [w for w in checked.json["warnings"] if w["code"] == "E241"]
    assert note["wrong"] == "code is a DoRA adapter: PEFT merges it into the base, once"
    directory = root / "run"
    killed_at(lambda: run_file(file, directory), "adapter.tensor")
    kept = directory / "cache" / "adapters"
    assert not any(path.is_dir() for path in kept.glob("[!.]*"))
    run_file(file, directory)
    assert len([path for path in kept.iterdir() if path.is_dir()]) == 1
    return root


def test_each_expert_is_what_peft_makes_of_it(campaign: Path, tmp_path: Path) -> None:
    for name in ("math", "code"):
        exported = call("export", campaign / "run", name, tmp_path / name, "--json")
        assert exported.code == 0, exported.out
        weights = load_file(tmp_path / name / "model.safetensors")
        expected = as_people_do(campaign / "models" / "base", campaign / "models" / name)
        assert set(weights) == set(expected)
        for tensor, values in weights.items():
            # Rounded once to the storage dtype; the sums of a factored adapter have another order.
            torch.testing.assert_close(
                values, expected[tensor].to(torch.bfloat16), rtol=0 if name == "code" else 2**-7, atol=0
            )


def test_a_recipe_names_the_adapter_and_works_elsewhere(campaign: Path, tmp_path: Path) -> None:
    """Whoever has the adapter and its base gets the same bytes, without the campaign's cache."""
    candidate = "c00003"
    assert call("export", campaign / "run", candidate, tmp_path / "out", "--json").code == 0
    shutil.rmtree(campaign / "run" / "cache" / "adapters")
    assert call("export", campaign / "run", candidate, tmp_path / "again", "--json").code == 0
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights

    data = json.loads((tmp_path / "out" / "recipe.json").read_text())
    recipe = recipe_from_json(data)
    assert Path(recipe.checkpoints["code"].path).name == "code"
    other = tmp_path / "machine" / "models"
    shutil.copytree(campaign / "models", other)
    for name, source in data["sources"].items():
        if "path" in source:
            source["path"] = f"models/{name}"
    file = other.parent / "recipe.json"
    file.write_text(json.dumps(data))
    merged = call("merge", file, other.parent / "merged", "--json")
    assert merged.code == 0, merged.out
    assert (other.parent / "merged" / "model.safetensors").read_bytes() == weights
    assert {path.name for path in other.parent.iterdir()} == {"models", "recipe.json", "merged"}

    path = other / "code" / "adapter_model.safetensors"
    save_file({key: value * 2 for key, value in load_file(path).items()}, path)
    refused = call("merge", file, other.parent / "changed", "--json")
    assert "the weights of `code` are not those the recipe means" in refused.out
    assert {path.name for path in other.parent.iterdir()} == {"models", "recipe.json", "merged"}


def test_a_mergekit_file_may_name_it(campaign: Path, tmp_path: Path) -> None:
    models = campaign / "models"
    text = f"""
merge_method: passthrough
models: [{{model: {models / "base"}+{models / "code"}}}]
dtype: bfloat16
"""
    (tmp_path / "merge.yml").write_text(text)
    merged = call("merge", tmp_path / "merge.yml", tmp_path / "out", "--json")
    assert merged.code == 0, merged.out
    expected = as_people_do(models / "base", models / "code")
    for tensor, values in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(values, expected[tensor].to(torch.bfloat16)), tensor


def test_added_tokens_in_a_common_vocabulary(campaign: Path, tmp_path: Path) -> None:
    """Refused as any other expert with tokens of its own is, until the campaign says whose tokens count."""
    shutil.copytree(campaign / "models", tmp_path / "models")
    models = tmp_path / "models"
    size = load_file(models / "base" / "model.safetensors")["lm_head.weight"].shape[0]
    shutil.copytree(models / "base", models / "grown")
    change_tokens(models / "grown", (), (), "<tool>", size + 2)
    shutil.rmtree(models / "code")
    whole = ["embed_tokens", "lm_head"]
    train(models / "grown", models / "code", 3, modules_to_save=whole)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models / "grown" / name, models / "code")
    small = {"evaluators": ("pets",), "budget": {"evaluations": 4}, "optimizer": {"population": 4}}
    refused = call("check", write_campaign(tmp_path, **small), "--json")
    assert {problem["code"] for problem in refused.json["errors"]} == {"E226"}
    file = write_campaign(tmp_path, tokenizer={"source": "union"}, **small)
    assert call("check", file, "--json").code == 0
    history = run_file(file, tmp_path / "run")
    assert all(c.failure is None for c in history.candidates.values())
    assert verify(tmp_path / "run") == []
    # Rescored from its files: other scores than those on record are an error.
    assert export_candidate(tmp_path / "run", "code", tmp_path / "out").scores
    stored = load_file(models / "code" / "adapter_model.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(
        written[size], stored["base_model.model.lm_head.weight"][size].to(torch.bfloat16)
    )
