"""Rotary positions: configs that mean the same are the same, with transformers' own classes as the oracle."""

import copy
import json
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evomerge.checkpoint.rope import older_spelling, read_rope, same_rope, states_rope, with_rope

OLDER = json.loads(Path(__file__).with_name("configs_transformers4.json").read_text())
"""The `config.json` of every family of `tests.families` as transformers 4.57 saved it."""

SPELLINGS = ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_emb_base",
             "rotary_pct", "partial_rotary_factor")  # fmt: skip
LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")
DEFAULT_IS_SCALED = ("apertus", "cwm", "gpt_oss", "ministral3")
"""Families whose default has a scaling; a config that says nothing at all of it is not met with."""


def newer(config):
    """What transformers 5 saves of a config that transformers 4 saved."""
    return json.loads(_class(config).from_dict(copy.deepcopy(config)).to_json_string(use_diff=False))


def _class(config):
    return CONFIG_MAPPING[config["model_type"]]


@pytest.mark.parametrize("family", OLDER)
def test_both_spellings_mean_the_same(family):
    older = OLDER[family]
    found = newer(older)
    assert same_rope(older, found)
    assert same_rope(found, older)
    if states_rope(older):
        said = older_spelling(found)
        bare = {key: value for key, value in found.items() if key not in SPELLINGS}
        assert same_rope({**bare, **said}, found)
        again = newer({**bare, **said})["rope_parameters"]
        assert _without_type(again) == _without_type(found["rope_parameters"])


def _without_type(rope):
    """Without the older name of `rope_type`, which transformers 5 keeps where it was."""
    return {k: _without_type(v) if isinstance(v, dict) else v for k, v in rope.items() if k != "type"}


@pytest.mark.parametrize("family", [name for name in OLDER if states_rope(OLDER[name])])
def test_other_positions_are_seen_in_either_spelling(family):
    older = OLDER[family]
    theta = "rotary_emb_base" if "rotary_emb_base" in older else "rope_theta"
    changed = {**older, theta: 30_000.0}
    for left in (older, newer(older)):
        for right in (changed, newer(changed)):
            assert not same_rope(left, right)
    if older.get("rope_scaling"):
        scaling = older["rope_scaling"]
        key = "factor" if "factor" in scaling else "long_factor"
        other = 16.0 if key == "factor" else [4.0] * len(scaling[key])
        assert not same_rope(newer(older), {**older, "rope_scaling": {**scaling, key: other}})


def test_defaults_are_those_of_transformers():
    """Of every family transformers knows, one global setting: what a config means that does not say it."""
    wrong = {}
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:  # some have no defaults
            continue
        data = config.to_dict()
        rope = data.get("rope_parameters")
        nested = not rope or any(isinstance(each, dict) for each in rope.values())
        if config.sub_configs or kind in DEFAULT_IS_SCALED or (nested and not older_spelling(data)):
            continue
        bare = {key: value for key, value in data.items() if key not in SPELLINGS}
        if read_rope(bare) != read_rope(data):
            wrong[kind] = read_rope(data)
    assert wrong == {}


def test_what_neither_says_is_the_same():
    assert same_rope({"model_type": "gpt2"}, {"model_type": "gpt2"})
    assert same_rope({"model_type": "llama"}, {"model_type": "llama", "rope_theta": 10_000})
    assert not same_rope({"model_type": "llama"}, {"model_type": "llama", "rope_theta": 5e5})


def test_what_transformers_4_has_no_words_for_is_not_said():
    config = AutoConfig.for_model("gemma4_text").to_dict()
    assert older_spelling(config) == {}
    assert older_spelling(OLDER["llama"]) == {}


@pytest.mark.parametrize("family", OLDER)
def test_another_models_positions_are_taken_whole(family):
    config = OLDER[family]
    if not states_rope(config):
        pytest.skip("has no rotary positions")
    other = copy.deepcopy(config)
    theta = "rotary_emb_base" if "rotary_emb_base" in config else "rope_theta"
    other |= {theta: 123456.0, "max_position_embeddings": 99}
    if config["model_type"] not in DEFAULT_IS_SCALED:
        other["rope_scaling"] = None
    for ours, theirs in ((config, other), (newer(config), other), (other, newer(config))):
        found = with_rope(ours, theirs)
        assert same_rope(found, theirs)
        assert found["max_position_embeddings"] == theirs["max_position_embeddings"]
        assert {k: v for k, v in found.items() if k not in (*SPELLINGS, *LENGTHS)} == {
            k: v for k, v in ours.items() if k not in (*SPELLINGS, *LENGTHS)
        }
        meant = json.loads(_class(found).from_dict(copy.deepcopy(found)).to_json_string(use_diff=False))
        assert same_rope(meant, theirs)
