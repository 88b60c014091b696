"""Tiny models, tasks and whole campaigns on disk, for tests of anything that needs real ones.

A base is a random two-layer Llama of about 20,000 parameters with a word tokenizer; an expert is the
base with a seeded perturbation of every weight. Each evaluator is a folder of three lm-eval tasks on
local JSON lines. Nothing is downloaded; a campaign folder is written in about 0.2 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from tests.evaluators.conftest import TASK, build_llama, build_tokenizer, make_items

EXPERTS = ("math", "code")
EVALUATORS = ("pets", "birds")


def tiny_base(seed: int = 0, **fields: Any) -> LlamaForCausalLM:
    """The live base model in float32; `fields` go into its LlamaConfig."""
    return build_llama(len(build_tokenizer()), seed, **fields)


def write_model(
    folder: Path,
    *,
    expert: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    spread: float = 0.4,
    tokenizer: bool = True,
    **fields: Any,
) -> Path:
    """Write the base of `seed`, or (with a number `expert`) a fine-tune of it, as a model folder.

    An expert's weights are the base's plus normal noise of `spread` times their standard deviation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_base(seed, **fields)
    if expert is not None:
        generator = torch.Generator().manual_seed(1000 * seed + expert + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                scale = float(parameter.std()) if parameter.ndim > 1 else 0.1
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(spread * scale * noise)
    tied = model.config.tie_word_embeddings
    tensors = {
        name: tensor.to(dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict() | {
        "architectures": ["LlamaForCausalLM"],
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if tokenizer:
        build_tokenizer().save_pretrained(folder)
    return folder


def write_evaluator(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    counts: tuple[int, int, int] = (24, 16, 16),
    block_size: int = 10,
    task: str = TASK,
    **fields: Any,
) -> Path:
    """Write `NAME.yaml` with its three tasks beside it in `tasks/`; returns the declaration's path."""
    data = folder / "tasks" / "data"
    data.mkdir(parents=True, exist_ok=True)
    names = {split: f"{name}_{split}" for split in ("search", "selection", "test")}
    for number, (label, count) in enumerate(zip(names.values(), counts, strict=True)):
        (folder / "tasks" / f"{label}.yaml").write_text(task.replace("NAME", label))
        items = make_items(100 * seed + number, count)
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (data / f"{label}.jsonl").write_text(lines)
    declaration = {
        "schema": 1,
        "kind": "lm_eval",
        "name": name,
        "include_path": "tasks",
        "tasks": names,
        "metrics": ["acc"],
        "block_size": block_size,
        **fields,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(declaration, indent=1))
    return path


def write_campaign(
    folder: Path,
    *,
    experts: Sequence[str] = EXPERTS,
    evaluators: Sequence[str] = EVALUATORS,
    space: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """Write models, tasks, search space and `campaign.yaml`; returns the campaign file's path.

    Args:
        folder: made if missing. What stands in it already (models, tasks) is kept, so that a second
            call changes the campaign file only.
        experts: names of the experts.
        evaluators: names of the evaluators; each gives one objective, its accuracy.
        space: the search-space declaration; per-layer task arithmetic by default.
        model: keyword arguments of `write_model`, for base and experts.
        overrides: sections of the campaign file. A mapping is merged into the default section, any
            other value (None too) takes its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "models" / "base").exists():
        write_model(folder / "models" / "base", **(model or {}))
    for number, name in enumerate(experts):
        if not (folder / "models" / name).exists():
            write_model(folder / "models" / name, expert=number, **(model or {}))
    for number, name in enumerate(evaluators):
        if not (folder / "evaluators" / f"{name}.yaml").exists():
            write_evaluator(folder / "evaluators", name, seed=number)
    declaration = space or {
        "schema": 1,
        "method": "task_arithmetic",
        "coefficients": {"weight": {"field": "layer", "low": 0.0, "high": 1.5}},
    }
    (folder / "space.yaml").write_text(json.dumps(declaration, indent=1))
    config: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "seed": 7,
        "base": {"path": "models/base"},
        "experts": {name: {"path": f"models/{name}"} for name in experts},
        "search_space": "space.yaml",
        "evaluators": [f"evaluators/{name}.yaml" for name in evaluators],
        "objectives": [{"metric": f"{name}.acc", "direction": "maximize"} for name in evaluators],
        "optimizer": {"kind": "nsga2", "population": 6},
        "budget": {"evaluations": 18},
        "evaluation": {"dtype": "float32", "batch_size": 8, "threads": 1, "device": "cpu"},
        "workers": {"pool": "inline", "count": 1},
        "baselines": {"single": [0.4, 0.8]},
    }
    for section, value in overrides.items():
        plain = isinstance(value, Mapping) and isinstance(config.get(section), dict)
        config[section] = {**config[section], **value} if plain else value
    path = folder / "campaign.yaml"
    path.write_text(json.dumps(config, indent=1))
    return path
