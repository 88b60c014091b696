"""Weights by row: the live model and the export hold the same bits, and those of the formula."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.adapter import open_adapter
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import ConfigError
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import MergedSource, single_source_recipe
from evomerge.recipe.rows import RowTable
from tests.checkpoint.folders import llama, write_family
from tests.merge.passes.cases import merged
from tests.merge.plan.test_plan import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

NAMES = ("a", "b", "lora")
STRENGTH = 0.7
TOKENS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two full experts with biases, and one by its factors."""
    root = tmp_path_factory.mktemp("rows")
    fields = {"attention_bias": True}
    found: dict[str, Any] = dict(write_family(root, ("a", "b"), **fields))
    config = LoraConfig(r=2, target_modules=["up_proj", "q_proj"], init_lora_weights=False)
    get_peft_model(llama(**fields), config).save_pretrained(root / "lora")
    return found | {"lora": open_adapter(root / "lora", "lora", found["base"])}


def source(rows: RowTable | None, **tables: Any) -> MergedSource:
    usual: dict[str, Any] = {"weight": {"a": 0.5, "b": 0.25, "lora": 0.5}, "lambda": STRENGTH}
    return replace(merged(inputs=NAMES, **usual | tables), rows=rows)


def plan_of(sources: Mapping[str, Any], made: MergedSource, dtype: str = "float32") -> MergePlan:
    recipe = single_source_recipe({**checkpoints(sources), "merged": made}, "merged", 2, dtype)
    return make_plan(recipe, sources, WeightStatistics(dict(sources)))


@pytest.fixture(scope="module")
def rows(sources: Mapping[str, Any]) -> RowTable:
    """Steps of every row of two experts, and of some of the third's."""
    rng = np.random.default_rng(1)
    counts = sources["base"].row_layout.rows
    tables = {n: {p: rng.integers(0, 2000, k, np.int16) for p, k in counts.items()} for n in ("a", "b")}
    some = {p: rng.integers(0, 2000, k, np.int16) for p, k in counts.items() if "up_proj" in p}
    return RowTable(-0.5, 1e-3, tables | {"lora": some})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_live_model_is_the_export(
    sources: dict[str, Any], rows: RowTable, tmp_path: Path, dtype: str
) -> None:
    plan, readers = plan_of(sources, source(rows), dtype), open_readers(sources)
    live = LiveModel.load(sources["base"], dtype)
    live.materialize(plan, readers)
    folder = tmp_path / "out"
    folder.mkdir()
    write_checkpoint(plan, readers, folder, 15_000)
    shutil.copy(sources["base"].path / "config.json", folder)
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    found = live.model.state_dict()
    for name, expected in reloaded.state_dict().items():
        assert torch.equal(found[name], expected), name
    assert torch.equal(live.model(TOKENS).logits, reloaded(TOKENS).logits)


def tensors_of(sources: dict[str, Any], plan: MergePlan) -> dict[str, torch.Tensor]:
    live = LiveModel.load(sources["base"], "float32")
    live.materialize(plan, open_readers(sources))
    return {name: tensor.clone() for name, tensor in live.model.state_dict().items()}


def test_every_row_has_its_own_weight(sources: dict[str, Any], rows: RowTable) -> None:
    found = tensors_of(sources, plan_of(sources, source(rows)))
    readers, base = open_readers(sources), sources["base"]
    for tensor, place in base.tensor_places.items():
        start = readers["base"].read(tensor).double()
        expected = start.clone()
        for name in NAMES:
            weights = rows.weights(name, place) or ({"a": 0.5, "b": 0.25, "lora": 0.5}[name],)
            if name == "lora":
                factors = readers[name].delta(tensor)
                vector = 0.0 if factors is None else (factors[0].double() @ factors[1].double())
            else:
                vector = readers[name].read(tensor).double() - start
            by_row = torch.tensor(weights, dtype=torch.float64).view(-1, *[1] * (start.ndim - 1))
            expected += STRENGTH * by_row * vector
        torch.testing.assert_close(found[tensor].double(), expected, rtol=1e-5, atol=1e-6)


def test_rows_that_share_a_weight_have_the_bits_of_that_weight(sources: dict[str, Any]) -> None:
    counts = sources["base"].row_layout.rows
    same = {p: np.full(k, 800, np.int16) for p, k in counts.items()}
    by_row = tensors_of(sources, plan_of(sources, source(RowTable(-0.5, 1e-3, {"a": same}))))
    weight = {"a": {"": 0.5, **dict.fromkeys(counts, 0.3)}, "b": 0.25, "lora": 0.5}
    by_matrix = tensors_of(sources, plan_of(sources, source(None, weight=weight)))
    for name, expected in by_matrix.items():
        assert torch.equal(by_row[name], expected), name


def test_layouts_by_row(sources: dict[str, Any]) -> None:
    base = sources["base"]
    assert base.row_layout.places == base.tensor_layout.places
    assert base.row_layout.rows["layers.1.attn.self_attn.k_proj"] == 16
    assert base.row_layout.rows["embed"] == 96
    assert not [place for place in base.row_layout.rows if "norm" in place]
    assert len(base.row_layout.leaves) == sum(
        base.row_layout.rows.get(p, 1) for p in base.row_layout.places
    )


def test_other_methods_have_no_rows(sources: dict[str, Any], rows: RowTable) -> None:
    made = replace(source(rows), method="ties", coefficients={"weight": {"*": {"": 1.0}}})
    with pytest.raises(ConfigError, match=r"E111.*merged.rows: ties has no weights by row"):
        plan_of(sources, made)
