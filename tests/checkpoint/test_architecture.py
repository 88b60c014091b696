"""Architectures that the installed transformers lacks are named before anything is done."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import CONFIG_MAPPING

from evomerge.checkpoint.architecture import unknown_architecture
from evomerge.checkpoint.folder import open_folder
from evomerge.errors import CheckpointError
from evomerge.export.export import merge_recipe
from tests.checkpoint.folders import llama, save


@pytest.fixture
def opened(tmp_path):
    save(llama(), tmp_path / "base", torch.float32)
    return open_folder(tmp_path / "base", "base")


def test_all_that_transformers_has_are_known(opened):
    for kind in CONFIG_MAPPING:
        assert unknown_architecture(replace(opened, config={"model_type": kind})) == [], kind


def test_others_are_named_before_a_byte_is_written(opened, tmp_path):
    config = dict(opened.config) | {"model_type": "llamma", "architectures": ["LlammaForCausalLM"]}
    (opened.path / "config.json").write_text(json.dumps(config))
    text = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}]\n"
    (tmp_path / "merge.yml").write_text(text)
    match = (
        r"E203.*config.json model_type.*not know the architecture `llamma`; LlammaFor.*can be merged"
    )
    with pytest.raises(CheckpointError, match=match):
        merge_recipe(tmp_path / "merge.yml", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "merge.yml"]
    own = replace(opened, config={**config, "auto_map": {"AutoConfig": "code.Config"}})
    (problem,) = unknown_architecture(own)
    assert problem.code == "E235"
