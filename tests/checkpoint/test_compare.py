"""Comparison with the base: every mismatch by its code, all in one list."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from evomerge.checkpoint.compare import MERGED_ANYWAY, compare_with_base
from evomerge.checkpoint.folder import open_folder
from tests.checkpoint.folders import llama, save
from tests.checkpoint.test_rope import OLDER


def save_family(root, family):
    """A model as transformers 5 saves it, and with the config that transformers 4 saves."""
    config = CONFIG_MAPPING[OLDER[family]["model_type"]].from_dict(copy.deepcopy(OLDER[family]))
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "newer")
    shutil.copytree(root / "newer", root / "older")
    (root / "older" / "config.json").write_text(json.dumps(OLDER[family]))


@pytest.fixture
def base(tmp_path):
    save(llama(), tmp_path / "base", torch.bfloat16)
    return open_folder(tmp_path / "base", "base")


def expert(tmp_path, dtype=torch.bfloat16, config=(), change=None, **fields):
    folder = tmp_path / "expert"
    save(llama(1, **fields), folder, dtype)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(config)))
    if change is not None:
        tensors = load_file(str(folder / "model.safetensors"))
        change(tensors)
        save_file(tensors, str(folder / "model.safetensors"))
    return open_folder(folder, "expert")


def codes(base, *experts):
    return sorted({problem.code for problem in compare_with_base(base, experts)})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rope_scaling", "linear", "must be an object"),
        ("rope_parameters", [1], "must be an object"),
        ("id2label", {"cat": 0}, "must be an object with a number for each class"),
    ],
)
def test_fields_of_a_config_that_cannot_be_read(tmp_path, base, field, value, said):
    other = expert(tmp_path, config={field: value})
    for first, second in ((base, other), (other, base)):
        (problem,) = compare_with_base(first, [second])
        assert (problem.code, problem.field, problem.wrong) == ("E202", field, f"expert: {said}")
        assert problem.found == json.dumps(value)
        assert problem.file == str(other.path / "config.json")


@pytest.mark.parametrize("text", ["[]", "{", '{"model": {"vocab": null}}', '{"model": 5}'])
def test_a_tokenizer_that_cannot_be_read_says_nothing(tmp_path, base, text):
    other = expert(tmp_path)
    (other.path / "tokenizer.json").write_text(text)
    assert compare_with_base(base, [other]) == []


def test_ids_that_are_no_numbers_differ(tmp_path, base):
    other = expert(tmp_path)
    for folder, ids in ((base, [1, 2]), (other, [1, "</s>"])):
        (folder.path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    (problem,) = compare_with_base(base, [other])
    assert (problem.code, problem.found) == ("E228", 'eos_token_id: base [1, 2], expert [1, "</s>"]')


def test_a_fine_tune_fits(tmp_path, base):
    assert compare_with_base(base, [expert(tmp_path)]) == []


def test_old_and_new_ways_to_write_rope_are_the_same(tmp_path, base):
    other = expert(tmp_path)
    path = other.path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    path.write_text(json.dumps(config | {"rope_theta": rope["rope_theta"], "rope_scaling": None}))
    assert codes(base, open_folder(other.path, "expert")) == []
    path.write_text(json.dumps(config | {"rope_theta": 5e5}))
    (problem,) = compare_with_base(base, [open_folder(other.path, "expert")])
    assert problem.code == "E245"
    assert problem.found == "rope_theta: base 10000.0, expert 500000.0"


@pytest.mark.parametrize("family", OLDER)
def test_a_base_of_one_release_and_an_expert_of_the_other(tmp_path, family):
    """Saved by transformers 4 and by transformers 5, in both orders."""
    save_family(tmp_path, family)
    older, newer = (open_folder(tmp_path / name, name) for name in ("older", "newer"))
    assert older.config != newer.config
    assert compare_with_base(older, [newer]) == []
    assert compare_with_base(newer, [older]) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_hidden_layers": 3}, ["E221", "E224"]),
        ({"num_hidden_layers": 1}, ["E220", "E224"]),
        ({"hidden_size": 16}, ["E223", "E224"]),
        ({"num_key_value_heads": 1}, ["E223", "E224"]),
        ({"num_attention_heads": 2, "head_dim": 8}, ["E223", "E224"]),
        ({"config": {"model_type": "mistral"}}, ["E225"]),
        ({"vocab_size": 98}, ["E226"]),
        ({"tie_word_embeddings": True}, ["E229"]),
        ({"config": {"quantization_config": {"quant_method": "gptq"}}}, ["E230"]),
        ({"dtype": torch.float16}, ["E231"]),
        ({"change": lambda t: t.pop("model.norm.weight")}, ["E220"]),
        ({"change": lambda t: t.update({"model.extra": torch.zeros(2)})}, ["E221"]),
        ({"change": lambda t: t.update({"model.norm.weight": torch.zeros(3).bfloat16()})}, ["E223"]),
        (
            {"change": lambda t: t.update({"model.layers.0.mlp.up_proj.qweight": torch.zeros(2, 2)})},
            ["E221", "E230"],
        ),
    ],
)
def test_mismatches(tmp_path, base, arguments, expected):
    found = expert(tmp_path, **arguments)
    assert [code for code in codes(base, found) if code != "E231" or "E231" in expected] == expected


def test_quantised_base(tmp_path, base):
    path = base.path / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "awq"}})
    )
    assert codes(open_folder(base.path, "base")) == ["E230"]


def test_rows_that_no_config_tells_of_are_explained_by_the_tokenizers(tmp_path, base):
    """One row more than the config says: which tokens they are, and what aligns them."""
    more = {"model.embed_tokens.weight": torch.zeros(97, 32).bfloat16()}
    other = expert(tmp_path, change=lambda tensors: tensors.update(more))
    words = {"cat": 0, "dog": 1}
    (base.path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    (other.path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {**words, "<turn>": 96}}})
    )
    (problem,) = compare_with_base(base, [other])
    assert problem.field == "model.embed_tokens.weight"
    assert problem.found == "base [96, 32], expert [97, 32]; 1 tokens the base lacks: '<turn>'"
    assert "tokenizer_source: union" in problem.todo


def test_tokens_with_other_ids(tmp_path, base):
    other = expert(tmp_path)
    words = {"<a>": 0, "cat": 1, "dog": 2, "end": 3}
    (base.path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    (other.path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    assert codes(base, other) == []
    moved = words | {"cat": 2, "dog": 1}
    (other.path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": moved}}))
    (problem,) = compare_with_base(base, [other])
    assert problem.code == "E227"
    assert problem.found.startswith("2 tokens have other ids")


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_other_special_tokens_are_told_and_do_not_stop_a_merge(tmp_path, base, key):
    other = expert(tmp_path)
    for folder, number in ((base, 2), (other, 7)):
        path = folder.path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: number}))
    opened = [open_folder(folder.path, folder.name) for folder in (base, other)]
    (problem,) = compare_with_base(opened[0], opened[1:])
    assert problem.code == "E228"
    assert problem.code in MERGED_ANYWAY
    assert problem.found == f"{key}: base 2, {other.name} 7"


def test_all_experts_in_one_list(tmp_path, base):
    save(llama(vocab_size=98), tmp_path / "x", torch.bfloat16)
    save(llama(tie_word_embeddings=True), tmp_path / "y", torch.bfloat16)
    found = compare_with_base(base, [open_folder(tmp_path / n, n) for n in ("x", "y")])
    assert {(p.code, p.wrong.split(":")[0]) for p in found} >= {("E226", "x"), ("E229", "y")}
