"""Folders: what opens, and every fault of config, index and shards by its code."""

import json
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import INDEX_FILE, open_folder
from evomerge.checkpoint.hub import missing_files
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import TensorReader
from evomerge.errors import CheckpointError
from tests.checkpoint.folders import llama, save


@pytest.fixture
def folder(tmp_path):
    save(llama(), tmp_path / "base", torch.bfloat16)
    return tmp_path / "base"


@pytest.fixture
def sharded(folder):
    llama().bfloat16().save_pretrained(folder.parent / "sharded", max_shard_size="20KB")
    return folder.parent / "sharded"


def edit_index(folder, change):
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index)
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_single_file(folder):
    opened = open_folder(folder, "base")
    assert (opened.layers, opened.tied, opened.files) == (2, False, ("model.safetensors",))
    assert opened.parameters == sum(p.numel() for p in llama().parameters())
    assert opened.names.prefix == "model.layers"


def test_shards_hold_the_same_model(folder, sharded):
    one, many = TensorReader(open_folder(folder, "one")), TensorReader(open_folder(sharded, "many"))
    assert len(many.folder.files) > 2
    assert set(one.folder.tensors) == set(many.folder.tensors)
    for name in one.folder.tensors:
        assert torch.equal(one.read(name), many.read(name))


def test_reading_copies_nothing_and_survives_odd_offsets(tmp_path, folder):
    reader = TensorReader(open_folder(folder, "base"))
    # Cloned, because the file is written over below and safetensors maps it.
    expected = {n: t.clone() for n, t in load_file(str(folder / "model.safetensors")).items()}
    for name in reader.folder.tensors:
        assert torch.equal(reader.read(name), expected[name])
    first, second = reader.read("lm_head.weight"), reader.read("lm_head.weight")
    assert first.data_ptr() == second.data_ptr()
    # A header whose length is odd leaves every tensor misaligned.
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    odd = (length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :]
    (folder / "model.safetensors").write_bytes(odd)
    reader = TensorReader(open_folder(folder, "base"))
    assert torch.equal(reader.read("lm_head.weight"), expected["lm_head.weight"])
    with pytest.raises(CheckpointError, match="E220"):
        reader.read("model.nothing")


def test_layout(folder):
    layout = open_folder(folder, "base").layout
    inside = [f"layers.{i}.{m}" for i in range(2) for m in ("attn", "mlp", "norm")]
    assert layout.places == ("embed", *inside, "final_norm", "head")
    assert layout.layers == 2
    assert layout.active is None


def test_the_finest_layout_is_the_layout_cut_finer(folder):
    opened = open_folder(folder, "base")
    found = opened.tensor_layout
    inside = [
        place
        for layer in range(2)
        for place in (
            *(f"layers.{layer}.attn.self_attn.{name}_proj" for name in ("k", "o", "q", "v")),
            *(f"layers.{layer}.mlp.mlp.{name}_proj" for name in ("down", "gate", "up")),
            f"layers.{layer}.norm",
        )
    ]
    assert found.places == ("embed", *inside, "final_norm", "head")
    assert set(found.places) == set(opened.tensor_places.values())
    assert (found.layers, found.parameters) == (opened.layout.layers, opened.layout.parameters)


def test_tied_model_has_no_head(tmp_path):
    save(llama(tie_word_embeddings=True), tmp_path, torch.float32)
    opened = open_folder(tmp_path, "base")
    assert opened.tied
    assert "head" not in opened.layout.places


def test_redundant_head_is_set_aside(tmp_path):
    model = llama(tie_word_embeddings=True)
    save(model, tmp_path, torch.float32)
    tensors = load_file(str(tmp_path / "model.safetensors"))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, str(tmp_path / "model.safetensors"))
    opened = open_folder(tmp_path, "base")
    assert set(opened.redundant) == {"lm_head.weight"}
    assert "lm_head.weight" not in opened.tensors
    assert opened.parameters == sum(p.numel() for p in model.parameters())


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    "model.rotary_emb.inv_freq": torch.ones(4),
    "model.layers.1.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    "model.layers.1.attention.masked_bias": torch.tensor(-1e9),
    "model.embeddings.position_ids": torch.arange(8)[None],
}
WEIGHTS = {
    "model.layers.0.attn.bias": torch.ones(32).bfloat16(),
    "model.position_embeddings.weight": torch.ones(8, 32).bfloat16(),
}


def test_buffers_are_no_weights_wherever_they_lie(folder, tmp_path):
    plain = open_folder(folder, "base")
    model = llama().bfloat16().state_dict()
    for place in ("single", "shards"):
        shutil.copytree(folder, tmp_path / place)
        (tmp_path / place / "model.safetensors").unlink()
        save_torch_state_dict(
            model | BUFFERS, tmp_path / place, max_shard_size="20KB" if place == "shards" else "5GB"
        )
        opened = open_folder(tmp_path / place, "expert")
        assert opened.tensors.keys() == plain.tensors.keys()
        assert compare_with_base(plain, [opened]) == compare_with_base(opened, [plain]) == []
    save_file(model | WEIGHTS, str(folder / "model.safetensors"))
    opened = open_folder(folder, "expert")
    assert opened.tensors.keys() - plain.tensors.keys() == WEIGHTS.keys()
    (problem,) = compare_with_base(plain, [opened])
    assert problem.code == "E221"


def test_a_single_file_goes_before_shards_as_in_transformers(folder, sharded):
    """Two models in one folder: the one that `from_pretrained` loads, and a word on it."""
    save_file(llama(5).bfloat16().state_dict(), str(sharded / "model.safetensors"))
    opened = open_folder(sharded, "expert")
    loaded = AutoModelForCausalLM.from_pretrained(sharded).state_dict()
    reader = TensorReader(opened)
    assert opened.files == ("model.safetensors",)
    assert all(torch.equal(reader.read(name), loaded[name]) for name in opened.tensors)
    (warning,) = opened.warnings
    assert re.search(r"model\.safetensors and shards; the single file is read", str(warning))
    for shard in sharded.glob("*-of-*.safetensors"):
        shard.unlink()
    assert missing_files(sharded) == ()


def test_gguf_is_called_by_its_name(folder):
    weights = folder.parent / "gguf" / "model-Q4_K_M.gguf"
    weights.parent.mkdir()
    weights.write_bytes(b"GGUF")
    for path in (weights, weights.parent):
        with pytest.raises(
            CheckpointError, match=r"E230.*GGUF files are for inference.*original weights"
        ):
            open_folder(path, "expert")
    shutil.copy(folder / "config.json", weights.parent)
    with pytest.raises(CheckpointError, match=r"E230.*GGUF"):
        open_folder(weights.parent, "expert")
    shutil.copy(weights, folder)
    assert open_folder(folder, "base").layers == 2


def test_missing_folder_suggests_the_nearest(folder):
    with pytest.raises(CheckpointError, match=r"E201.*did you mean .*base"):
        open_folder(folder.parent / "bose", "base")
    with pytest.raises(
        CheckpointError, match=r"E201.*a model is a folder, this is a file; give the folder"
    ):
        open_folder(folder / "model.safetensors", "base")


@pytest.mark.parametrize("content", [None, "{", "[]", "\udcff"])
def test_config_faults(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"E202.*base"):
        open_folder(folder, "base")


def test_adapter_given_as_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(CheckpointError, match=r"E204.*org/base"):
        open_folder(tmp_path, "math")


class Bait:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return pathlib.Path.touch, (self.canary,)


def test_pickle_weights_are_never_opened(folder, tmp_path):
    canary = tmp_path / "canary"
    bait = pickle.dumps(Bait(canary))
    base = open_folder(folder, "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes(bait)
    with pytest.raises(CheckpointError, match=r"E206.*pytorch_model.bin"):
        open_folder(folder, "base")
    (folder / "model.safetensors").write_bytes(bait)
    with pytest.raises(CheckpointError, match=r"E208.*a pickle or zip file under another name"):
        open_folder(folder, "base")
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    (folder / "adapter_model.bin").write_bytes(bait)
    with pytest.raises(CheckpointError, match=r"E206.*adapter_model.bin"):
        open_source(folder, "math", base)
    assert not canary.exists()
    pickle.loads(bait)
    assert canary.exists()  # it would have worked


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="E215"):
        open_folder(folder, "base")


def test_other_number_of_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"E222.*config says 3, the files have 2"):
        open_folder(folder, "base")


def test_shard_missing(sharded):
    victim = sorted(sharded.glob("model-*"))[1]
    victim.unlink()
    with pytest.raises(CheckpointError, match=f"E215.*{victim.name}"):
        open_folder(sharded, "base")


def test_shards_without_index(sharded):
    (sharded / INDEX_FILE).unlink()
    with pytest.raises(CheckpointError, match="E216"):
        open_folder(sharded, "base")


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"a"', "{}", '{"weight_map": {}}', '{"weight_map": 3}']
)
def test_index_unreadable(sharded, content):
    (sharded / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match="E217"):
        open_folder(sharded, "base")


def test_index_without_metadata_is_fine(sharded):
    edit_index(sharded, lambda index: index.pop("metadata"))
    assert open_folder(sharded, "base").layers == 2


@pytest.mark.parametrize(
    "path", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", 3]
)
def test_index_cannot_leave_the_folder(sharded, path):
    edit_index(sharded, lambda index: index["weight_map"].update({"lm_head.weight": path}))
    with pytest.raises(CheckpointError, match="E218"):
        open_folder(sharded, "base")


def test_index_and_shards_disagree(sharded):
    files = sorted(path.name for path in sharded.glob("model-*"))

    def change(index):
        where = index["weight_map"]["lm_head.weight"]
        index["weight_map"]["lm_head.weight"] = next(f for f in files if f != where)
        index["weight_map"]["model.ghost"] = files[0]

    edit_index(sharded, change)
    with pytest.raises(CheckpointError, match="E219") as caught:
        open_folder(sharded, "base")
    assert {p.field for p in caught.value.problems} == {"lm_head.weight", "model.ghost"}


def test_tensor_in_two_shards(sharded):
    index = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    home = index["lm_head.weight"]
    other = next(file for file in sorted(set(index.values())) if file != home)
    tensors = load_file(str(sharded / other))
    tensors["lm_head.weight"] = torch.zeros(96, 32, dtype=torch.bfloat16)
    save_file(tensors, str(sharded / other))
    with pytest.raises(CheckpointError, match=r"E219.*lm_head\.weight"):
        open_folder(sharded, "base")


def test_digest_is_of_content_only(folder, sharded, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    first = content_digest(open_folder(folder, "base"))
    assert content_digest(open_folder(tmp_path / "copy", "other")) == first
    assert content_digest(open_folder(sharded, "base")) != first
    tensors = load_file(str(tmp_path / "copy" / "model.safetensors"))
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, str(tmp_path / "copy" / "model.safetensors"))
    assert content_digest(open_folder(tmp_path / "copy", "base")) != first


def test_files_that_change_under_a_reader(folder):
    opened = open_folder(folder, "base")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:2000])
    with pytest.raises(CheckpointError, match="E239"):
        TensorReader(opened).read("model.norm.weight")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="E240"):
        TensorReader(opened).read("model.norm.weight")


def test_reading_headers_and_planning_need_no_torch():
    modules = ["folder", "adapter", "layout", "compare", "digest", "header", "residual"]
    names = [f"evomerge.checkpoint.{name}" for name in modules] + ["evomerge.merge.plan"]
    code = (
        f"import sys, {', '.join(names)}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
