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
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint.adapter import open_adapter
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.errors import ConfigError
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import MergedSource, single_source_recipe
from evomerge.recipe.rows import RowTable
from evomerge.search_space import SearchSpaceDeclaration, build_search_space
from tests.checkpoint.folders import SIZES, llama, write_family
from tests.merge.passes.cases import merged
from tests.merge.plan.test_plan import checkpoints
from tests.merge.test_binding import FAMILIES

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
    assert_live_is_export(sources, plan_of(sources, source(rows), dtype), tmp_path / "out", dtype)


def assert_live_is_export(sources: dict[str, Any], plan: MergePlan, folder: Path, dtype: str) -> None:
    readers = open_readers(sources)
    live = LiveModel.load(sources["base"], dtype)
    live.materialize(plan, readers)
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


def test_rows_have_no_shares(sources: dict[str, Any], rows: RowTable) -> None:
    """They would be taken as they are, and only the matrices beside them be divided."""
    made = replace(source(rows), options={"divisor": "weight"})
    with pytest.raises(ConfigError, match=r"E111.*merged.rows: weights by row are not divided"):
        plan_of(sources, made)


NO_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 96,
            "n_embd": 32,
            "n_inner": 96,  # as many rows as the bias of another matrix has entries
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        },
    ),
    "granitemoe": ("GraniteMoeConfig", {**SIZES, "num_local_experts": 4}),
}
"""Models with matrices whose first axis counts no outputs."""


def other_family(root: Path, kind: str, fields: Mapping[str, Any]) -> dict[str, CheckpointFolder]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("base", "a", "b"):
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(first[key] + 0.05 * torch.randn_like(value))
        model.save_pretrained(root / name)
    return {name: open_folder(root / name, name) for name in ("base", "a", "b")}


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("gpt2", {"head"}),
        ("granitemoe", {"embed", "head", "q_proj", "k_proj", "v_proj", "o_proj", "layer"}),
    ],
)
def test_a_first_axis_that_counts_no_outputs_has_one_weight(
    tmp_path: Path, family: str, told: set[str]
) -> None:
    folders: dict[str, Any] = dict(other_family(tmp_path, *NO_ROWS[family]))
    base = folders["base"]
    layout = base.row_layout
    assert {place.rpartition(".")[2] for place in layout.rows} == told
    assert layout.places == base.tensor_layout.places
    assert {p.rpartition(".")[2] for p in base.without_rows} == (
        {"embed", "c_attn", "c_proj", "c_fc"} if family == "gpt2" else {"input_linear", "output_linear"}
    )

    assert_rows_are_merged(folders, tmp_path / "out")


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_of_a_mixture_share_the_weights_of_their_rows(tmp_path: Path, family: str) -> None:
    folders: dict[str, Any] = dict(other_family(tmp_path, *FAMILIES[family]))
    shared = [place for place in folders["base"].row_layout.rows if "experts" in place.split(".")]
    assert len(shared) == 2 * 3
    assert_rows_are_merged(folders, tmp_path / "out")


def assert_rows_are_merged(folders: dict[str, Any], out: Path) -> None:
    """What is exported of a genome with a value for each row is the formula's, and what is live."""
    base = folders["base"]
    layout = base.row_layout
    declared = {"schema": 1, "method": "task_arithmetic", "coefficients": {"weight": {"field": "row"}}}
    declaration = SearchSpaceDeclaration.model_validate(declared)
    experts = ("a", "b")
    space = build_search_space(declaration, layout, checkpoints(folders), experts, "float32", 0)
    assert len(space.genes) == 2 * len(layout.leaves)
    rng = np.random.default_rng(2)
    genome = space.snap([rng.uniform(gene.low, gene.high) for gene in space.genes])
    recipe = space.decode(genome)
    plan = make_plan(recipe, folders, WeightStatistics(folders))
    assert_live_is_export(folders, plan, out, "float32")

    weight = {(gene.input, gene.places[0]): v for gene, v in zip(space.genes, genome, strict=True)}
    exported: dict[str, torch.Tensor] = {}
    for file in out.glob("*.safetensors"):
        exported |= load_file(file)
    readers = open_readers(folders)
    for tensor, place in base.tensor_places.items():
        start = readers["base"].read(tensor).double()
        expected = start.clone()
        for name in experts:
            vector = readers[name].read(tensor).double() - start
            rows = layout.rows.get(place)
            if rows is None:
                own = torch.tensor(weight[name, place])
            else:
                own = torch.tensor([weight[name, f"{place}.{row}"] for row in range(rows)])
                own = own.view(-1, *[1] * (start.ndim - 1))
            expected += own.double() * vector
        torch.testing.assert_close(exported[tensor].double(), expected, rtol=1e-5, atol=1e-6)
