"""LoRA adapters: PEFT's own merge is the oracle; what is no plain LoRA is refused by name."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from evomerge.checkpoint.adapter import AdapterFolder, open_adapter
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
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


def write_hub_gpt2(folder):
    """GPT-2 as the hub has it: its files begin inside `transformer`, the module that PEFT names."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 24, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    save(model, folder, torch.float32)
    file = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, str(file), metadata={"format": "pt"})


def test_files_that_leave_out_the_name_of_the_module_that_holds_all_but_the_head(tmp_path):
    write_hub_gpt2(tmp_path / "base")
    base = open_folder(tmp_path / "base", "base")
    tuned = write_adapter(
        tmp_path,
        target_modules=["c_attn", "mlp.c_proj"],
        fan_in_fan_out=True,
        rank_pattern={"transformer.h.1.attn.c_attn": 2},
    )
    adapter = open_source(tmp_path / "adapter", "math", base)
    reader = open_readers({"base": base, "math": adapter})["math"]
    after = tuned.merge_and_unload().state_dict()
    assert {*adapter.factors} == {
        f"h.{layer}.{module}.weight" for layer in (0, 1) for module in ("attn.c_attn", "mlp.c_proj")
    }
    for name in base.tensors:
        end, factors = reader.read(name), reader.delta(name)
        end = end if factors is None else end + factors[0] @ factors[1]
        torch.testing.assert_close(end, after[f"transformer.{name}"], rtol=1e-5, atol=1e-6)
    # Factors of the embedding would change the head that is tied to it.
    write_adapter(tmp_path, target_modules=["wte"])
    tied = open_source(tmp_path / "adapter", "math", base)
    assert (tied.kind, tied.own_head) == ("LoRA of a tied embedding", "lm_head.weight")


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
    ("field", "value", "said"),
    [
        ("peft_type", "PREFIX_TUNING", "PREFIX_TUNING adapters add no weights"),
        ("peft_type", "XLORA", "adapters of this type are not understood"),
        ("init_lora_weights", "loftq", "trained against a base that the training changed"),
        ("init_lora_weights", "corda", "trained against a base that the training changed"),
        ("init_lora_weights", "lora_ga", "trained against a base that the training changed"),
        ("init_lora_weights", "pissa_niter_4", "found by a random method"),
        ("init_lora_weights", "newest", "this start is not understood"),
        ("layer_replication", [[0, 2], [1, 2]], "its model has other layers"),
        ("alora_invocation_tokens", [5], "after certain tokens only"),
        ("kasa_config", {"beta": 1}, "this field of the adapter is not understood"),
        ("a_field_of_the_future", 0.5, "this field of the adapter is not understood"),
        ("task_type", "SEQ_CLS", "no language model"),
        ("bias", "some", "none, all or lora_only"),
        ("r", 0, "positive integer"),
        ("rank_pattern", [1], "a number for each regular expression"),
        ("alpha_pattern", {"q_proj": "4"}, "a number for each regular expression"),
        ("alpha_pattern", {"(": 4}, "a number for each regular expression"),
        ("lora_alpha", None, "must be a number"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, field, value, said):
    write_adapter(tmp_path)
    edit_config(tmp_path, **{field: value})
    base = open_folder(tmp_path / "base", "base")
    with pytest.raises(CheckpointError, match=rf"E234.* {field}: math: .*{said}") as caught:
        open_adapter(tmp_path / "adapter", "math", base)
    assert len(caught.value.problems) == 1


def test_fields_that_say_nothing_are_let_through(tmp_path):
    """What PEFT writes of features that were not used, of versions before and after the installed one."""
    write_adapter(tmp_path)
    edit_config(tmp_path, a_field_of_the_future=None, another={}, third=False, init_lora_weights="eva")
    base = open_folder(tmp_path / "base", "base")
    assert len(open_adapter(tmp_path / "adapter", "math", base).factors) == 4


def test_a_full_model_beside_an_adapter_is_the_full_model(tmp_path):
    write_adapter(tmp_path)
    base = open_folder(tmp_path / "base", "base")
    assert base.warnings == ()
    for file in (tmp_path / "base").iterdir():
        shutil.copy(file, tmp_path / "adapter")
    both = open_source(tmp_path / "adapter", "math", base)
    assert isinstance(both, CheckpointFolder)
    (warning,) = both.warnings
    assert (warning.code, warning.wrong) == ("E205", "math is read as the full model it is")
    (tmp_path / "adapter" / "model.safetensors").unlink()
    # A config of the base that the training left beside the adapter makes no full model of it.
    assert isinstance(open_source(tmp_path / "adapter", "math", base), AdapterFolder)


def test_faults_of_a_kind_are_one_line(tmp_path):
    write_adapter(tmp_path)
    save(llama(hidden_size=16), tmp_path / "small", torch.float32)
    with pytest.raises(CheckpointError, match="4 in all; the first: A ") as caught:
        open_adapter(tmp_path / "adapter", "math", open_folder(tmp_path / "small", "base"))
    (problem,) = caught.value.problems
    assert (problem.code, problem.wrong) == ("E223", "factor of the wrong shape, 4 in all")
    assert problem.field.endswith("_proj")


@pytest.mark.parametrize("said", [True, False])
def test_orientation_is_that_of_the_layers(tmp_path, said):
    """GPT-2 stores [in, out] inside its layers and not in its head; PEFT goes by the layer's class."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 24, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False))
    save(model, tmp_path / "base", torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["c_attn", "c_proj", "lm_head"], fan_in_fan_out=True
    )
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        tuned = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    edit_config(tmp_path, fan_in_fan_out=said)
    base = open_folder(tmp_path / "base", "base")
    reader = open_readers({"base": base, "math": open_source(tmp_path / "adapter", "math", base)})[
        "math"
    ]
    after = tuned.merge_and_unload().state_dict()
    for name, start in before.items():
        factors = reader.delta(name)
        end = start if factors is None else start + low_rank_delta(*factors).view(start.shape)
        torch.testing.assert_close(end, after[name], rtol=1e-5, atol=1e-6)


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
    broken["base_model.model.model.layers.0.mlp.scale"] = torch.zeros(8, 4)
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
