"""Config and recipe of an export, as they may be published."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer, LlamaConfig

from evomerge.export.files import (
    MANIFEST_FILE,
    check_manifest,
    copy_side_files,
    output_config,
    published_recipe,
    write_manifest,
)
from tests.evaluators.conftest import build_tokenizer
from tests.export.finished import (
    Finished,
    hand_made,
)


def test_a_manifest_tells_every_file_that_is_not_as_it_was_published(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("config.json", "model.safetensors", "inner/chat.jinja"):
        (tmp_path / name).write_text(name)
    sizes = write_manifest(tmp_path, {"name": "out"})
    assert set(sizes) == {"config.json", "model.safetensors", "inner/chat.jinja", MANIFEST_FILE}
    assert check_manifest(tmp_path) == []
    (tmp_path / "config.json").write_text("CONFIG.json")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "inner" / "more.jinja").write_text("")
    assert check_manifest(tmp_path) == [
        "config.json: changed",
        "inner/more.jinja: not listed",
        "model.safetensors: missing",
    ]


def test_a_hub_model_keeps_its_name(finished: Finished, tmp_path: Path) -> None:
    hub = f"org/name@{'a' * 40}"
    recipe = published_recipe(hand_made(finished), {"base": hub}, finished.root / "out")
    assert recipe.checkpoints["base"].path == hub
    assert recipe.checkpoints["math"].path == "../models/math"
    assert published_recipe(recipe, {}, Path("/srv/out")).checkpoints["math"].path == "math"


def test_config_follows_the_recipe() -> None:
    config = {
        "_name_or_path": "/home/me/secret",
        "auto_map": {"AutoModel": "x.py"},
        "torch_dtype": "float32",
        "num_hidden_layers": 2,
        "text_config": {"torch_dtype": "float32", "hidden_size": 4, "_name_or_path": "/home/me/secret"},
    }
    result, warnings = output_config(config, "bfloat16", {"num_hidden_layers": 3})
    assert result == {
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "num_hidden_layers": 3,
        "text_config": {"torch_dtype": "bfloat16", "dtype": "bfloat16", "hidden_size": 4},
    }
    assert warnings == ("config.json named remote code (auto_map); it is left out of the export",)
    assert config["auto_map"]


def test_positions_are_said_to_both_lines_of_transformers() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    config = {"model_type": "llama", "rope_parameters": rope, "max_position_embeddings": 64}
    result, _ = output_config(config, "bfloat16", {})
    assert result["rope_theta"] == 5e5
    assert result["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert result["rope_parameters"] == rope
    again = LlamaConfig.from_dict(result)
    assert again.rope_parameters == rope
    older = {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": None}
    assert output_config(older, "bfloat16", {})[0] == {
        **older,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def test_a_tokenizer_is_named_as_both_lines_of_transformers_know_it(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<turn>"]})
    (tmp_path / "out").mkdir()
    tokenizer.save_pretrained(tmp_path / "base")
    copy_side_files(tmp_path / "base", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<turn>"]
    assert "extra_special_tokens" not in config
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the cat <turn> eats 12 fish"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.all_special_tokens == tokenizer.all_special_tokens
    # What both know already is copied byte by byte.
    (tmp_path / "again").mkdir()
    copy_side_files(tmp_path / "out", tmp_path / "again")
    for path in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
