"""LoRA adapters: PEFT's own merge is the oracle; what is no plain LoRA is refused by name."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.adapter import AdapterFolder, open_adapter
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import CheckpointError
from evomerge.merge.passes.blocks import low_rank_delta
from tests.checkpoint.folders import llama, save

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def write_adapter(root, **fields):
    """A random adapter of `root/base`; returns the PEFT model."""
    if not (root / "base").exists():
        save(llama(), root / "base", torch.float32)
    model = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **fields}
    tuned = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(root / "adapter", save_embedding_layers=False)
    return tuned


def edit_config(root, **fields):
    path = root / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
        {"target_modules": ["embed_tokens", "v_proj"]},
    ],
)
def test_delta_is_that_of_peft(tmp_path, fields):
    tuned = write_adapter(tmp_path, **fields)
    base = open_folder(tmp_path / "base", "base")
    adapter = open_source(tmp_path / "adapter", "math", base)
    assert isinstance(adapter, AdapterFolder)
    before = {name: base_tensor.clone() for name, base_tensor in llama().state_dict().items()}
    after = tuned.merge_and_unload().state_dict()
    reader = open_readers({"base": base, "math": adapter})["math"]
    touched = set()
    for name, start in before.items():
        factors = reader.delta(name)
        delta = (
            torch.zeros_like(start) if factors is None else low_rank_delta(*factors).view(start.shape)
        )
        torch.testing.assert_close(start + delta, after[name], rtol=1e-5, atol=1e-6)
        if factors is not None:
            touched.add(name)
    assert touched == {name for name in before if not torch.equal(before[name], after[name])}
    assert content_digest(adapter) != content_digest(base)


def test_other_base_is_a_warning(tmp_path):
    write_adapter(tmp_path)
    base = open_folder(tmp_path / "base", "base")
    assert open_adapter(tmp_path / "adapter", "math", base).warnings == ()
    cached = tmp_path / "models--org--name" / "snapshots" / "0123"
    shutil.copytree(tmp_path / "base", cached)
    edit_config(tmp_path, base_model_name_or_path="org/name")
    assert open_adapter(tmp_path / "adapter", "math", open_folder(cached, "base")).warnings == ()
    edit_config(tmp_path, base_model_name_or_path="org/another")
    (warning,) = open_adapter(tmp_path / "adapter", "math", base).warnings
    assert warning.code == "E205"
    assert "org/another" in warning.found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("peft_type", "IA3"),
        ("r", 0),
        ("lora_alpha", None),
    ],
)
def test_unsupported_features_are_named(tmp_path, field, value):
    write_adapter(tmp_path)
    edit_config(tmp_path, **{field: value})
    with pytest.raises(CheckpointError, match=f"E234.*{field}"):
        open_adapter(tmp_path / "adapter", "math", open_folder(tmp_path / "base", "base"))


def test_faulty_weights(tmp_path):
    write_adapter(tmp_path)
    base = open_folder(tmp_path / "base", "base")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(str(path))
    prefix = "base_model.model.model.layers.0"
    broken = dict(tensors)
    broken.pop(f"{prefix}.self_attn.q_proj.lora_A.weight")
    broken[f"{prefix}.mlp.down_proj.lora_B.weight"] = torch.zeros(31, 4)
    broken["base_model.model.other.lora_A.weight"] = torch.zeros(4, 8)
    broken["base_model.model.other.lora_B.weight"] = torch.zeros(8, 4)
    broken["base_model.model.lm_head.weight"] = torch.zeros(8, 4)
    save_file(broken, str(path))
    with pytest.raises(CheckpointError, match="E2") as caught:
        open_adapter(tmp_path / "adapter", "math", base)
    assert {p.code for p in caught.value.problems} == {"E220", "E221", "E223", "E234"}
    path.unlink()
    with pytest.raises(CheckpointError, match="E215"):
        open_adapter(tmp_path / "adapter", "math", base)
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match="E206"):
        open_adapter(tmp_path / "adapter", "math", base)
    with pytest.raises(CheckpointError, match="E201"):
        open_adapter(tmp_path / "nowhere", "math", base)
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="E202"):
        open_adapter(tmp_path / "adapter", "math", base)
