"""What a config says of rotary positions (RoPE), however it spells it. Torch-free.

transformers 5 keeps everything in `rope_parameters`, by kind of layer where kinds differ; before, the base
frequency stood alone (`rope_theta`), scaling beside it (`rope_scaling`), and some families had names of their
own. Both are read into one form here, by the rules of transformers 5, and written back in the older one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Rope = dict[str, dict[str, Any]]
"""Kind of layer (empty: every layer) to `rope_theta`, `rope_type`, `partial_rotary_factor` and scaling."""

_FULL, _SLIDING = "full_attention", "sliding_attention"
_NESTED = ("gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "olmo3")
"""Families whose scaling is for layers of full attention only."""
_WITH_LOCAL = ("gemma3", "gemma3_text", "gemma3n", "gemma3n_text")
"""Families whose layers with a sliding window have a base frequency of their own."""
_LOCAL = "rope_local_base_freq"
_OWN_NAMES = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
"""Model type to its names of `rope_theta` and `partial_rotary_factor`."""
_FIELDS = frozenset(
    ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", _LOCAL,
     "max_position_embeddings", "original_max_position_embeddings",
     *(name for names in _OWN_NAMES.values() for name in names))
)  # fmt: skip
"""All that a config says of rotary positions, with the lengths that scalings depend on."""
_EXACT = {
    "phi3": ("type", "short_factor", "long_factor"),
    "phi4_multimodal": ("type", "short_factor", "long_factor"),
    "phimoe": ("type", "short_factor", "long_factor", "short_mscale", "long_mscale",
               "original_max_position_embeddings"),
}  # fmt: skip
"""Families of which transformers 4 refuses a `rope_scaling` with other keys than these."""
_WITH_LENGTH = ("llama3", "yarn", "longrope")
"""Scalings that need the length the model was trained at."""
_OLDER_TYPES = ("default", "linear", "dynamic", *_WITH_LENGTH)

_THETA = {
    "apertus": 12e6, "bailing_hybrid": 6e6, "bitnet": 5e5, "blt": 5e5, "cohere": 5e5, "cwm": 1e6,
    "emu3_text_model": 1e6, "ernie4_5": 5e5, "ernie4_5_moe": 5e5, "flex_olmo": 5e5, "fuyu": 25e3,
    "gemma3": 1e6, "gemma3_text": 1e6, "gemma3n": 1e6, "gemma3n_text": 1e6, "gpt_oss": 15e4, "helium": 1e5,
    "hy_v3": 11_158_840.0, "lfm2": 1e6, "lfm2_moe": 1e6, "lfm3": 1e6, "llama4_text": 5e5,
    "longcat_flash": 1e7, "minimax": 1e6, "minimax_m2": 5e6, "minimax_m3_vl_text": 5e6, "ministral3": 1e6,
    "mixtral": 1e6, "mllama_text_model": 5e5, "olmo3": 5e5, "phimoe": 1e6, "smollm3": 2e6, "solar_open": 1e6,
}  # fmt: skip
"""Base frequency of a config that states none, where it is not 10000."""
_PARTIAL = {
    "bamba": 0.5, "glm": 0.5, "glm4": 0.5, "glm4_moe": 0.5, "gpt_neox": 0.25, "nemotron": 0.5,
    "persimmon": 0.5, "phi": 0.5, "qwen3_5_text": 0.25, "qwen3_5_moe_text": 0.25, "qwen3_next": 0.25,
    "recurrent_gemma": 0.5, "stablelm": 0.25,
}  # fmt: skip
"""Rotated part of a head of a config that states none, where it is not the whole."""


def states_rope(part: Mapping[str, Any]) -> bool:
    """Whether a decoder's config says anything of rotary positions."""
    names = ("rope_parameters", "rope_theta", "rope_scaling", *_names(part))
    return any(part.get(name) is not None for name in names)


def read_rope(part: Mapping[str, Any]) -> Rope:
    """The rotary positions of a decoder's config, in one form, defaults filled in.

    Args:
        part: the part of `config.json` that describes the decoder.
    """
    theta_name, partial_name = _names(part)
    theta = _first(part.get(theta_name), _THETA.get(_kind(part), 1e4))
    partial = _first(part.get(partial_name), _PARTIAL.get(_kind(part), 1.0))
    parameters = part.get("rope_parameters") or {}
    # As transformers 5 does: `rope_scaling` goes before, for it is what people edit by hand.
    scaling = part.get("rope_scaling") or {}
    by_kind = {kind: dict(each) for kind, each in parameters.items() if isinstance(each, Mapping)}
    if _kind(part) in _NESTED:
        by_kind = {_SLIDING: {}, _FULL: {} if by_kind else dict(parameters), **by_kind}
        by_kind[_FULL].update(scaling)
    elif not by_kind:
        by_kind = {"": dict(scaling or parameters)}
    local = _first(part.get(_LOCAL), 1e4) if _kind(part) in _WITH_LOCAL else theta
    if _kind(part) == "olmo3":
        local = _THETA["olmo3"]  # transformers 5 gives `rope_theta` to layers of full attention only
    return {
        kind: _one(each, part, local if kind == _SLIDING else theta, partial)
        for kind, each in by_kind.items()
    }


def same_rope(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two decoders' configs mean the same; so they do where neither says anything."""
    if not (states_rope(left) or states_rope(right)):
        return True
    ours, theirs = read_rope(left), read_rope(right)
    kinds = (ours.keys() | theirs.keys()) - {""} or {""}
    return all(ours.get(kind, ours.get("")) == theirs.get(kind, theirs.get("")) for kind in kinds)


def older_spelling(part: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which transformers 4 looks for what `rope_parameters` says.

    Empty where there is nothing to say, and where it has no words for it (kinds of layers that differ
    otherwise than in the families it knows, newer scalings).
    """
    rope = read_rope(part)
    main = rope.get(_FULL if _kind(part) in _NESTED else "")
    if not part.get("rope_parameters") or main is None or main["rope_type"] not in _OLDER_TYPES:
        return {}
    theta_name, partial_name = _names(part)
    fields: dict[str, Any] = {theta_name: main["rope_theta"]}
    partial = main["partial_rotary_factor"]
    if partial != 1.0 or _kind(part) in _PARTIAL:
        fields[partial_name] = partial
    if _kind(part) in _WITH_LOCAL:
        fields[_LOCAL] = rope[_SLIDING]["rope_theta"]
    scaling = {k: v for k, v in main.items() if k not in ("rope_theta", "partial_rotary_factor")}
    if _kind(part) in _EXACT:
        scaling["type"] = scaling["rope_type"]
        if "original_max_position_embeddings" in scaling:
            fields["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
        scaling = {k: v for k, v in scaling.items() if k in _EXACT[_kind(part)]}
    fields["rope_scaling"] = scaling if main["rope_type"] != "default" else None
    without = {key: value for key, value in part.items() if key != "rope_parameters"}
    return fields if read_rope({**without, **fields}) == rope else {}


def with_rope(part: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A decoder's config with the rotary positions of another of its type, and the lengths they depend on."""
    kept = {key: value for key, value in part.items() if key not in _FIELDS}
    return kept | {key: copy.deepcopy(value) for key, value in other.items() if key in _FIELDS}


def _kind(part: Mapping[str, Any]) -> str:
    return str(part.get("model_type", ""))


def _names(part: Mapping[str, Any]) -> tuple[str, str]:
    return _OWN_NAMES.get(_kind(part), ("rope_theta", "partial_rotary_factor"))


def _first(stated: Any, default: float) -> Any:
    return stated if stated is not None else default


def _one(
    stated: Mapping[str, Any], part: Mapping[str, Any], theta: float, partial: float
) -> dict[str, Any]:
    found = {k: v for k, v in stated.items() if v is not None and k not in ("type", "rope_type")}
    scaled = str(stated.get("rope_type", stated.get("type", "default")))
    if _kind(part) in ("phi3", "phi4_multimodal") and scaled in ("su", "yarn"):
        scaled = "longrope"  # its names before this one had a name
    found["rope_type"] = scaled
    found.setdefault("rope_theta", theta)
    found.setdefault("partial_rotary_factor", partial)
    if scaled in _WITH_LENGTH:
        trained = part.get("original_max_position_embeddings")
        trained = trained or found.get("original_max_position_embeddings")
        found["original_max_position_embeddings"] = trained or part.get("max_position_embeddings")
    return found
