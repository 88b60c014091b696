"""Conflicts of signs are those of the weights, also of adapters, and origins those of the coefficients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.folder import open_folder
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe, identity_path
from evomerge.report import signs
from evomerge.report.signs import sign_conflicts
from tests.export.test_merge import write_adapter
from tests.tiny_models import write_model

EXPERTS = ("math", "code")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "base")
    for number, name in enumerate(EXPERTS):
        write_model(folder / name, expert=number)
    write_adapter(folder / "lora")
    return folder


def recipe_of(folder: Path, *experts: str) -> Recipe:
    sources = {name: CheckpointSource(str(folder / name)) for name in ("base", *experts)}
    merged = MergedSource("task_arithmetic", experts, "base")
    return Recipe({**sources, "merged": merged}, identity_path(2), {"embed": "merged"})


def by_hand(
    folder: Path, layer: str, deltas: dict[str, dict[str, torch.Tensor]]
) -> tuple[float | None, int]:
    """Share of large entries that go apart in a layer, by torch, and how many there are."""
    large = apart = 0
    for name in load_file(folder / "base" / "model.safetensors"):
        if f".{layer}." not in f".{name}" or any(name not in each for each in deltas.values()):
            continue
        left, right = (each[name].float() for each in deltas.values())
        if left.ndim < 2:
            continue
        both = torch.ones_like(left, dtype=torch.bool)
        for each in (left.abs(), right.abs()):
            if not bool((each > 0).any()):
                both[:] = False
                continue
            both &= each >= torch.quantile(each[each > 0].double(), 0.8).float()
        both &= (left != 0) & (right != 0)
        large += int(both.sum())
        apart += int((both & (left.sign() != right.sign())).sum())
    return (apart / large if large else None), large


def deltas_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    base = load_file(folder / "base" / "model.safetensors")
    theirs = load_file(folder / name / "model.safetensors")
    return {tensor: theirs[tensor].float() - base[tensor].float() for tensor in base}


def test_they_are_those_of_the_weights(models: Path) -> None:
    places = list(dict.fromkeys(open_folder(models / "base", "base").places.values()))
    found = sign_conflicts(recipe_of(models, *EXPERTS), places)
    assert found is not None
    assert found["pairs"] == ["math · code"]
    deltas = {name: deltas_of(models, name) for name in EXPERTS}
    counted = 0
    for layer, share in zip(found["layers"], found["large"][0], strict=True):
        if layer.startswith("layers."):
            wanted, count = by_hand(models, layer, deltas)
            assert share == pytest.approx(wanted, abs=1e-3)
            counted += count
    assert counted > 100
    assert 0 < found["overall"][0][1] < 1


def test_an_adapter_moves_what_its_factors_move(models: Path) -> None:
    places = list(dict.fromkeys(open_folder(models / "base", "base").places.values()))
    found = sign_conflicts(recipe_of(models, "math", "lora"), places)
    assert found is not None
    factors = load_file(models / "lora" / "adapter_model.safetensors")
    lora = {}
    for key, b in factors.items():
        if key.endswith("lora_B.weight"):
            a = factors[key.replace("lora_B", "lora_A")]
            name = key.removeprefix("base_model.model.").replace("lora_B.weight", "weight")
            lora[name] = 2.0 * b.float() @ a.float()
    for layer, share in zip(found["layers"], found["large"][0], strict=True):
        wanted, _ = by_hand(models, layer, {"math": deltas_of(models, "math"), "lora": lora})
        if layer.startswith("layers."):
            assert share == pytest.approx(wanted, abs=1e-3)
        elif layer != "embed":
            assert share is None


def test_a_sample_of_rows_is_near_the_whole(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = list(dict.fromkeys(open_folder(models / "base", "base").places.values()))
    whole = sign_conflicts(recipe_of(models, *EXPERTS), places)
    monkeypatch.setattr(signs, "ENTRIES", 512)
    sampled = sign_conflicts(recipe_of(models, *EXPERTS), places)
    assert whole is not None
    assert sampled is not None
    np.testing.assert_allclose(sampled["overall"], whole["overall"], atol=0.1)


def test_one_expert_has_no_conflicts(models: Path) -> None:
    assert sign_conflicts(recipe_of(models, "math"), ["layers.0"]) is None
