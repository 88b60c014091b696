"""What of an adapter's config is understood: an allow-list by type, with what each field does to a merge.

Plain and rank-stabilised LoRA can be read as factors. What else PEFT itself merges rightly is merged by it,
once. All the rest (types that add no weights, starts that change the base in a way that the saved adapter
does not tell, fields nobody here has heard of) is refused by its name. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, Problem

FACTORED = "LoRA"
"""The kind of adapter that is read as factors; every other kind is merged by PEFT."""

_NO_WEIGHTS = frozenset(
    "PREFIX_TUNING PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING CPT CARTRIDGE ADAPTION_PROMPT".split()
)
"""Types that put learned vectors before or between what the model reads and leave its weights alone."""

_ANYWHERE = (
    "peft_type task_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save"
)
_LORA = (
    "r lora_alpha rank_pattern alpha_pattern use_rslora fan_in_fan_out lora_dropout bias lora_bias use_dora "
    "init_lora_weights trainable_token_indices target_parameters ensure_weight_tying runtime_config "
    # Read where `init_lora_weights` or the flag beside them says so, and then refused by that.
    "loftq_config eva_config corda_config lora_ga_config qalora_group_size megatron_core"
)
_PATTERNS = (
    "r alpha rank_pattern alpha_pattern rank_dropout module_dropout use_effective_conv2d init_weights"
)
_FIELDS = {
    "LORA": _LORA,
    "ADALORA": f"{_LORA} target_r init_r tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step",
    "IA3": "feedforward_modules fan_in_fan_out init_ia3_weights",
    "LOHA": _PATTERNS,
    "LOKR": f"{_PATTERNS} decompose_both decompose_factor rank_dropout_scale",
    "VERA": "r projection_prng_key save_projection vera_dropout d_initial fan_in_fan_out bias init_weights",
    "OFT": "r oft_block_size module_dropout fan_in_fan_out bias init_weights coft eps block_share "
    "use_cayley_neumann num_cayley_neumann_terms rank_pattern alpha_pattern",
    "BOFT": "boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout fan_in_fan_out bias "
    "init_weights",
    "HRA": "r apply_GS init_weights bias",
    "FOURIERFT": "n_frequency scaling random_loc_seed fan_in_fan_out bias n_frequency_pattern init_weights",
    "MISS": "r miss_dropout mini_r init_weights bias",
    "LN_TUNING": "",
    "TRAINABLE_TOKENS": "token_indices init_weights",
}
"""Adapter type to the fields of its config whose every value PEFT's merge gets right, unless listed below."""

_NAMES = {
    "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "FOURIERFT": "FourierFT",
    "MISS": "MiSS", "LN_TUNING": "LN tuning", "TRAINABLE_TOKENS": "trained tokens",
}  # fmt: skip

_KINDS: dict[str, Callable[[Any], str]] = {
    "use_dora": lambda value: "DoRA",
    "modules_to_save": lambda value: "LoRA with modules_to_save",
    "bias": lambda value: "" if value == "none" else "LoRA with trained biases",
    "lora_bias": lambda value: "LoRA with biases of its own",
    "trainable_token_indices": lambda value: "LoRA with trained tokens",
    "target_parameters": lambda value: "LoRA of parameters",
    "init_lora_weights": lambda value: {"pissa": "PiSSA", "olora": "OLoRA"}.get(str(value).lower(), ""),
}
"""Field of a LoRA config to what a value that is set makes of the adapter; empty if nothing."""

_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""`init_lora_weights` that leave the base as it is: the factors are all there is."""

_CHANGED_BASE = "trained against a base that the training changed in a way that was not saved"
_REFUSED = {
    "layer_replication": "its model has other layers than the base",
    "alora_invocation_tokens": "it acts after certain tokens only, which no weights can",
    "arrow_config": "it chooses among adapters for each token, which no weights can",
    "use_qalora": "it was trained on pooled inputs of a quantised base",
    "megatron_config": "its layers are those of Megatron",
}


def adapter_kind(config: Mapping[str, Any], name: str, folder: Path) -> str:
    """What an adapter is: `FACTORED`, or the kind that PEFT merges (`DoRA`, `AdaLoRA`, ...).

    Args:
        config: `adapter_config.json`.
        name: what the adapter is called in messages.
        folder: where it lies.

    Raises:
        CheckpointError: E234 for every field, type or value that is not understood, by its name.
    """
    problems: list[Problem] = []

    def refuse(field: str, wrong: str, todo: str = "") -> None:
        found = f"{field} is {_shown(config.get(field))}"
        todo = todo or "merge it into its base where it was trained and give the full model"
        problems.append(Problem("E234", f"{name}: {wrong}", found, todo, str(folder), field=field))

    peft_type = str(config.get("peft_type"))
    if peft_type in _NO_WEIGHTS:
        wrong = (
            f"{peft_type} adapters add no weights to the model's own, so that there is nothing to merge"
        )
        refuse("peft_type", wrong, "leave it out")
    elif peft_type not in _FIELDS:
        known = ", ".join(_FIELDS)
        refuse("peft_type", f"adapters of this type are not understood; those of {known} are")
    if problems:
        raise CheckpointError(problems)
    known_fields = {*_ANYWHERE.split(), *_FIELDS[peft_type].split()}
    for field, value in config.items():
        if field in known_fields or _unset(value):
            continue
        refuse(field, _REFUSED.get(field, "this field of the adapter is not understood"))
    task = config.get("task_type")
    if task not in (None, "", "CAUSAL_LM"):
        refuse("task_type", "the adapter belongs to a model that is no language model")
    kind = _NAMES.get(peft_type, peft_type)
    if peft_type in ("LORA", "ADALORA"):
        _check_lora(config, refuse)
    if peft_type == "LORA":
        set_fields = [f for f in _KINDS if not _unset(config.get(f))]
        kind = next((found for f in set_fields if (found := _KINDS[f](config[f]))), FACTORED)
    if problems:
        raise CheckpointError(problems)
    return kind


def _check_lora(config: Mapping[str, Any], refuse: Callable[[str, str], None]) -> None:
    rank, alpha, start = (config.get(f) for f in ("r", "lora_alpha", "init_lora_weights"))
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        refuse("r", "the rank must be a positive integer")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        refuse("lora_alpha", "lora_alpha must be a number")
    # AdaLoRA's say which directions of each module are left.
    for field in ("rank_pattern", "alpha_pattern") if config.get("peft_type") == "LORA" else ():
        if not _is_pattern(config.get(field) or {}):
            refuse(field, "must give a number for each regular expression of module names")
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        refuse("bias", "must be none, all or lora_only")
    name = start.lower() if isinstance(start, str) else start
    if name in _PLAIN_STARTS or name in ("pissa", "olora"):
        return
    if isinstance(name, str) and re.fullmatch(r"pissa_niter_\d+", name):
        refuse("init_lora_weights", "its part of the base was found by a random method, and is lost")
    elif name in ("loftq", "corda", "lora_ga"):
        refuse("init_lora_weights", _CHANGED_BASE)
    else:
        refuse("init_lora_weights", "this start is not understood; it may have changed the base")


def _is_pattern(patterns: Any) -> bool:
    """Whether it has the form that PEFT reads: a regular expression to a number, one or more."""
    try:
        return all(
            re.compile(key) and isinstance(value, int | float) for key, value in patterns.items()
        )
    except (AttributeError, re.error):
        return False


def _unset(value: Any) -> bool:
    """Whether a field says nothing: PEFT writes all fields of its version, most of them so."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
