"""A worker over two experts and an adapter of a tiny Llama, to compare slopes with finite differences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from evomerge.checkpoint.folder import open_folder
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, Recipe, single_source_recipe
from evomerge.run.job import Job, JobResult, MeasuredSlope, SlopeWork, WorkerSetup
from evomerge.run.worker import Worker
from evomerge.search_space import SearchSpace, SearchSpaceDeclaration, build_search_space
from evomerge.search_space.model_layout import ModelLayout
from tests.shared import made_once
from tests.tiny_models import tiny_base, write_evaluator, write_model

EXPERTS = ("code", "math", "lora")
"""Not in the order of their names: gradients come in this one."""
ITEMS = {"pets.acc": (0, 2, 3, 5, 7, 11), "birds.acc": (1, 4, 6)}
WORK = SlopeWork({"pets.acc": 0.75, "birds.acc": 1.5}, ITEMS)
STEP = 5e-3


def make(root: Path, tied: bool, layers: int) -> None:
    fields = {"tie_word_embeddings": tied, "num_hidden_layers": layers}
    write_model(root / "base", **fields)
    write_model(root / "code", expert=0, **fields)
    write_model(root / "math", expert=1, **fields)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "up_proj"])
    with torch.random.fork_rng():
        torch.manual_seed(4)
        tuned = peft.get_peft_model(tiny_base(**fields), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    tuned.save_pretrained(root / "lora", save_embedding_layers=False)
    for seed, name in enumerate(("pets", "birds")):
        write_evaluator(root, name, seed=seed)


@dataclass
class Bed:
    """A worker over models in a folder, and the layout of its base."""

    worker: Worker
    sources: Mapping[str, CheckpointSource]
    layout: ModelLayout

    @property
    def places(self) -> tuple[str, ...]:
        return self.layout.places

    def run(self, recipe: Recipe, work: SlopeWork = WORK) -> JobResult:
        job = Job("s", "slope", recipe.to_json(), slope=work, rows=recipe.row_content)
        return self.worker.run(job)

    def slope(self, recipe: Recipe, work: SlopeWork = WORK) -> MeasuredSlope:
        result = self.run(recipe, work)
        assert result.status == "ok", result.message + result.traceback
        assert result.slope is not None
        return result.slope

    def recipe(self, weights: np.ndarray, method: str, **fields: Any) -> Recipe:
        """The merge with these weights, [experts, places]; numbers among `fields` hold everywhere."""
        tables = {
            name: dict(zip(self.places, row, strict=True))
            for name, row in zip(EXPERTS, weights.tolist(), strict=True)
        }
        numbers = {k: v for k, v in fields.items() if isinstance(v, float)}
        coefficients: dict[str, Any] = {"weight": tables}
        for name, value in numbers.items():
            declared = METHODS[method].coefficient(name)
            assert declared is not None
            inputs = EXPERTS if declared.per_input else ("*",)
            coefficients[name] = {each: {"": value} for each in inputs}
        options = {k: v for k, v in fields.items() if isinstance(v, str)}
        base = None if method == "linear" else "base"
        merged = MergedSource(method, EXPERTS, base, coefficients, options, seed=9)
        layers = self.layout.layers
        return single_source_recipe({**self.sources, MERGED: merged}, MERGED, layers, "float32")

    def loss(self, recipe: Recipe, entropy: bool = False) -> float:
        found = self.slope(recipe, SlopeWork({}, WORK.items, entropy))
        assert found.gradient.shape == (0, 0)
        return sum(weight * found.losses[metric] for metric, weight in WORK.weights.items())

    def difference(self, weights: np.ndarray, along: np.ndarray, method: str, **fields: Any) -> float:
        """The slope along a direction: central differences of fourth order."""

        def loss(steps: int) -> float:
            return self.loss(self.recipe(weights + steps * STEP * along, method, **fields))

        return (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * STEP)


def bed_of(root: Path, dtype: str = "float64", by_tensor: bool = False, by_row: bool = False) -> Bed:
    folders = {name: str(root / name) for name in ("base", *EXPERTS)}
    evaluators = tuple(str(root / f"{name}.yaml") for name in ("pets", "birds"))
    cache = root / "cache"
    cache.mkdir(exist_ok=True)
    methods = ("ties", "breadcrumbs", "della_linear")
    setup = WorkerSetup(
        sources=folders, evaluators=evaluators, methods=methods, trims=("tensor", "model"),
        dtype=dtype, storage="float32", device="cpu", threads=1, batch_size=4, cache=str(cache),
        by_tensor=by_tensor, by_row=by_row,
    )  # fmt: skip
    sources = {n: CheckpointSource(p, on="base" if n == "lora" else "") for n, p in folders.items()}
    base = open_folder(root / "base", "base")
    return Bed(Worker(setup), sources, base.layout_by(tensor=by_tensor, row=by_row))


def widen_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's norms are float32 even in float64, which would drown finite differences."""

    def forward(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(
            hidden, self.weight.shape, self.weight, self.variance_epsilon
        )

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@functools.cache
def bed_with(tied: bool, by_tensor: bool = False, by_row: bool = False, layers: int = 2) -> Bed:
    folder = made_once(f"slopes-{tied}-{layers}", lambda root: make(root, tied, layers))
    return bed_of(folder, by_tensor=by_tensor, by_row=by_row)


def some_weights(bed: Bed, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).uniform(0.1, 0.6, (len(EXPERTS), len(bed.places)))
    weights[0, 2:5] = 0.0  # it has a gradient all the same
    return weights


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def space_of(
    bed: Bed,
    method: str,
    weight: Mapping[str, Any],
    others: Mapping[str, Any] | None = None,
    **stated: Any,
) -> SearchSpace:
    """A search space over the bed's models; `others` are its coefficients beside the weight."""
    coefficients = {"weight": weight, **(others or {})}
    declared = {"schema": 1, "method": method, "coefficients": coefficients, **stated}
    declaration = SearchSpaceDeclaration.model_validate(declared)
    return build_search_space(declaration, bed.layout, bed.sources, EXPERTS, "float32", 9)


def differences(loss: Callable[[np.ndarray], float], at: np.ndarray, step: float) -> np.ndarray:
    """The gradient of a function, float64 [n]: central differences of fourth order in each of its numbers."""

    def central(along: np.ndarray) -> float:
        return loss(at + along) - loss(at - along)

    steps = step * np.eye(len(at))
    return np.array([8.0 * central(each) - central(2.0 * each) for each in steps]) / (12.0 * step)
