"""Tiny models, tasks and whole campaigns on disk, for tests of anything that needs real ones.

A base is a random two-layer Llama of about 20,000 parameters with a word tokenizer; an expert is the
base with a seeded perturbation of every weight. Each evaluator is three lm-eval tasks on local JSON
lines; in a campaign, most of its right answers are what one expert says, so that experts are better
than the base at their own task and a front has something to weigh. Nothing is downloaded; a campaign
folder is written in well under a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from tests.evaluators.conftest import TASK, build_llama, build_tokenizer, make_items
from tests.shared import ROOT, made_once

EXPERTS = ("math", "code")
EVALUATORS = ("pets", "birds")
COUNTS = (24, 16, 16)
"""Items of an evaluator for search, selection and test."""


def tiny_base(seed: int = 0, **fields: Any) -> LlamaForCausalLM:
    """The live base model in float32; `fields` go into its LlamaConfig."""
    return build_llama(len(build_tokenizer()), seed, **fields)


def write_model(
    folder: Path,
    *,
    expert: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    spread: float = 0.25,
    tokenizer: bool = True,
    **fields: Any,
) -> Path:
    """Write the base of `seed`, or (with a number `expert`) a fine-tune of it, as a model folder.

    See `tiny_expert` for what an expert is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_base(seed, **fields) if expert is None else tiny_expert(expert, seed, spread, **fields)
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


def tiny_expert(expert: int, seed: int = 0, spread: float = 0.25, **fields: Any) -> LlamaForCausalLM:
    """The live expert number `expert` in float32: the base plus normal noise on every weight."""
    model = tiny_base(seed, **fields)
    generator = torch.Generator().manual_seed(1000 * seed + expert + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = float(parameter.std()) if parameter.ndim > 1 else 0.1
            parameter.add_(spread * scale * torch.randn(parameter.shape, generator=generator))
    return model


def say_as(
    model: LlamaForCausalLM, items: list[dict[str, Any]], share: float = 0.8
) -> list[dict[str, Any]]:
    """The items with the model's own choice as the right answer, for the first `share` of them."""
    tokenizer = build_tokenizer()
    rows, spans = [], []
    for item in items:
        for choice in item["choices"]:
            start = len(tokenizer(item["question"])["input_ids"])
            ids = tokenizer(item["question"] + choice)["input_ids"]
            rows.append(ids)
            spans.append((start, len(ids)))
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        chances = model(input_ids=tokens).logits.float().log_softmax(-1)
    told = chances[:, :-1].gather(2, tokens[:, 1:, None])[:, :, 0]
    sums = [float(told[row, start - 1 : end - 1].sum()) for row, (start, end) in enumerate(spans)]
    said = []
    for number, item in enumerate(items):
        four = sums[4 * number : 4 * number + 4]
        best = four.index(max(four))
        said.append(item | ({"answer": best} if number < share * len(items) else {}))
    return said


def write_evaluator(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    oracle: LlamaForCausalLM | None = None,
    counts: tuple[int, int, int] = COUNTS,
    block_size: int = 10,
    task: str = TASK,
    **fields: Any,
) -> Path:
    """Write `NAME.yaml` with its three tasks beside it in `tasks/`; returns the declaration's path.

    With an `oracle`, most right answers are its own choices.
    """
    data = folder / "tasks" / "data"
    data.mkdir(parents=True, exist_ok=True)
    names = {split: f"{name}_{split}" for split in ("search", "selection", "test")}
    for number, (label, count) in enumerate(zip(names.values(), counts, strict=True)):
        (folder / "tasks" / f"{label}.yaml").write_text(task.replace("NAME", label))
        items = make_items(100 * seed + number, count)
        if oracle is not None:
            items = say_as(oracle, items)
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


@dataclass(frozen=True)
class _Inputs:
    """Models and tasks of a campaign; see `write_campaign`."""

    experts: tuple[str, ...]
    evaluators: tuple[str, ...]
    model: Mapping[str, Any]
    counts: tuple[int, int, int]

    def write(self, folder: Path) -> None:
        """Write what is not there yet."""
        if not (folder / "models" / "base").exists():
            write_model(folder / "models" / "base", **self.model)
        for number, name in enumerate(self.experts):
            if not (folder / "models" / name).exists():
                write_model(folder / "models" / name, expert=number, **self.model)
        for number, name in enumerate(self.evaluators):
            if not (folder / "evaluators" / f"{name}.yaml").exists():
                oracle = tiny_expert(number % len(self.experts), **self.model)
                write_evaluator(
                    folder / "evaluators", name, seed=number, oracle=oracle, counts=self.counts
                )


def write_campaign(
    folder: Path,
    *,
    experts: Sequence[str] = EXPERTS,
    evaluators: Sequence[str] = EVALUATORS,
    space: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    counts: tuple[int, int, int] = COUNTS,
    **overrides: Any,
) -> Path:
    """Write models, tasks, search space and `campaign.yaml`; returns the campaign file's path.

    Args:
        folder: made if missing. What stands in it already (models, tasks) is kept, so that a second
            call changes the campaign file only.
        experts: names of the experts.
        evaluators: names of the evaluators; each gives one objective, its accuracy.
        space: the search-space declaration; per-layer task arithmetic by default.
        model: `seed` and config fields of base and experts, as for `tiny_base`.
        counts: items of each evaluator; half as many are scored in two thirds of the time.
        overrides: sections of the campaign file. A mapping is merged into the default section, any
            other value (None too) takes its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = [name for name in ("models", "evaluators") if (folder / name).exists()]
    inputs = _Inputs(tuple(experts), tuple(evaluators), model or {}, counts)
    if ROOT in os.environ and not kept:
        # The same few are wanted by hundreds of tests: copying takes a twentieth of making them.
        name = hashlib.sha256(repr(inputs).encode()).hexdigest()
        shutil.copytree(made_once(f"inputs-{name}", inputs.write), folder, dirs_exist_ok=True)
    else:
        inputs.write(folder)
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
