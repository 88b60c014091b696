"""The merges both programs carry out: mergekit files, and recipes of ours that mergekit has words for.

`CASES` has every method both know; `FILES` and `TOKENS` are files as people write them, with slices, filters,
gradients and tokenizers; `RECIPES` are recipes in our own semantics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.recipe.recipe import (
    CheckpointSource,
    LayerStep,
    MergedSource,
    Recipe,
    single_source_recipe,
)


@dataclass(frozen=True)
class Case:
    """One method with its parameters.

    Attributes:
        name: of the row in the table.
        method: in mergekit.
        each: parameters of each expert in turn, as YAML flow text.
        shared: those of the merge.
        base: whether a base model is named.
        experts: how many experts take part; 0 for all.
        text: the whole file instead, with `{root}`, experts `{a}` and `{b}`, layers `{layers}`, `{dtype}`.
        iterative: whether mergekit stops an iteration early.
        random: whether masks are drawn.
    """

    name: str
    method: str = ""
    each: tuple[str, ...] = ("{}",)
    shared: str = "{}"
    base: bool = True
    experts: int = 0
    text: str = ""
    iterative: bool = False
    random: bool = False

    @property
    def spoken(self) -> str:
        """The method, which a whole file states."""
        return self.method or self.text.partition("merge_method: ")[2].split()[0]


@dataclass(frozen=True)
class RecipeCase:
    """A method in our semantics, with coefficients that vary over layers and modules.

    Attributes:
        name: of the row in the table.
        method: ours; empty for a stack of layers.
        inputs: how many experts take part; 0 for all.
        options: of the method.
        coefficients: names of those that vary; others are at their default.
        random: whether masks are drawn.
    """

    name: str
    method: str = ""
    inputs: int = 0
    options: Mapping[str, str | float | bool] | None = None
    coefficients: tuple[str, ...] = ("weight",)
    random: bool = False

    @property
    def spoken(self) -> str:
        """The method in mergekit."""
        return self.method or "passthrough"


WEIGHTS = (
    "weight: [0.2, 0.9]",
    "weight: [{filter: self_attn, value: 0.5}, {filter: mlp, value: [0.9, 0.1]}, {value: 0.3}]",
    "weight: 0.4",
)
DENSITIES = ("density: 0.3", "density: [0.5, 0.7]", "density: 0.8")
BOTH = tuple(f"{{{w}, {d}}}" for w, d in zip(WEIGHTS, DENSITIES, strict=True))
PLAIN = tuple(f"{{{w}}}" for w in WEIGHTS)
RANKED = tuple(f"{{{w}, density: 0.5, epsilon: 0.2}}" for w in WEIGHTS)

CASES = (
    Case("linear", "linear", PLAIN, base=False),
    Case("linear, not normalised", "linear", PLAIN, "{normalize: false}", base=False),
    Case("task_arithmetic", "task_arithmetic", PLAIN, "{lambda: 0.8}"),
    Case("task_arithmetic, normalised", "task_arithmetic", PLAIN, "{normalize: true}"),
    Case("slerp", "slerp", ("{}",), "{t: [{filter: mlp, value: [0.1, 0.9]}, {value: 0.4}]}", experts=1),
    Case("nuslerp", "nuslerp", PLAIN, experts=2),
    Case("nuslerp, no base", "nuslerp", PLAIN, base=False, experts=2),
    Case("nuslerp, by rows", "nuslerp", PLAIN, "{nuslerp_flatten: false}", experts=2),
    Case(
        "nuslerp, by columns", "nuslerp", PLAIN, "{nuslerp_flatten: false, nuslerp_row_wise: true}",
        base=False, experts=2,
    ),
    Case("multislerp", "multislerp", PLAIN),
    Case("multislerp, no base", "multislerp", PLAIN, base=False),
    Case("karcher", "karcher", base=False, iterative=True),
    Case("model_stock", "model_stock"),
    Case("model_stock, by rows", "model_stock", shared="{filter_wise: true}"),
    Case("ties", "ties", BOTH, "{lambda: 0.9}"),
    Case("ties, not normalised", "ties", BOTH, "{normalize: false, rescale: true}"),
    Case("breadcrumbs", "breadcrumbs", BOTH),
    Case("breadcrumbs_ties", "breadcrumbs_ties", BOTH, "{gamma: 0.05}"),
    Case("sce", "sce", shared="{select_topk: 0.6}"),
    Case(
        "nearswap", "nearswap", ("{}",), "{t: [{filter: mlp, value: [0.001, 0.02]}, {value: 0.01}]}",
        experts=1,
    ),
    Case("arcee_fusion", "arcee_fusion", ("{}",), experts=1),
    Case("dare_linear", "dare_linear", BOTH, random=True),
    Case("dare_linear, no rescale", "dare_linear", BOTH, "{rescale: false}", random=True),
    Case("dare_ties", "dare_ties", BOTH, random=True),
    Case("dare_ties, normalised", "dare_ties", BOTH, "{normalize: true}", random=True),
    Case("della_linear", "della_linear", RANKED, random=True),
    Case("della", "della", RANKED, random=True),
)  # fmt: skip

FILES = (
    Case("file: slerp, filters and gradients", text="""\
slices:
  - sources:
      - {{model: {root}/{a}, layer_range: [0, {layers}]}}
      - {{model: {root}/{b}, layer_range: [0, {layers}]}}
merge_method: slerp
base_model: {root}/{a}
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
out_dtype: {dtype}
"""),
    Case("file: ties, two slices that overlap", text="""\
merge_method: ties
base_model: {root}/base
slices:
  - sources:
      - {{model: {root}/base, layer_range: [0, 2]}}
      - {{model: {root}/{a}, layer_range: [0, 2], parameters: {{weight: [0.2, 0.9], density: 0.4}}}}
      - model: {root}/{b}
        layer_range: [0, 2]
        parameters:
          weight:
            - {{filter: down_proj, value: 0.7}}
            - {{filter: self_attn, value: [0.1, 0.6]}}
            - {{value: 0.3}}
          density: [0.9, 0.5]
  - sources:
      - {{model: {root}/base, layer_range: [1, {layers}]}}
      - {{model: {root}/{a}, layer_range: [1, {layers}], parameters: {{weight: 0.6}}}}
      - {{model: {root}/{b}, layer_range: [1, {layers}], parameters: {{weight: [0.8, 0.2]}}}}
    parameters: {{density: 0.5}}
parameters: {{normalize: true, lambda: 1.1}}
dtype: float32
out_dtype: {dtype}
"""),
    Case("file: passthrough, scaled copies of layers", text="""\
merge_method: passthrough
slices:
  - sources: [{{model: {root}/{a}, layer_range: [0, 2]}}]
  - sources:
      - model: {root}/{b}
        layer_range: [1, {layers}]
        parameters:
          scale: [{{filter: o_proj, value: 0.0}}, {{filter: down_proj, value: 0.5}}, {{value: 1.0}}]
  - sources: [{{model: {root}/{a}, layer_range: [2, {layers}]}}]
dtype: float32
out_dtype: {dtype}
"""),
)  # fmt: skip

TOKENS = tuple(
    Case(f"file: {method}, tokenizer of {source}{pad}", text=f"""\
merge_method: {method}
base_model: {{root}}/base
models:
  - {{{{model: {{root}}/{{a}}, parameters: {{{{weight: [0.2, 0.9]{more}}}}}}}}}
  - {{{{model: {{root}}/{{b}}, parameters: {{{{weight: 0.5{more}}}}}}}}}
tokenizer: {{{{source: {source}{pad}}}}}
dtype: float32
out_dtype: {{dtype}}
""")
    for method, source, more, pad in (
        ("task_arithmetic", "base", "", ""),
        ("task_arithmetic", "union", "", ""),
        ("ties", "union", ", density: 0.6", ""),
        ("ties", "union", ", density: 0.6", ", pad_to_multiple_of: 64"),
    )
)  # fmt: skip

RECIPES = (
    RecipeCase("recipe: linear", "linear"),
    RecipeCase("recipe: task_arithmetic", "task_arithmetic", coefficients=("weight", "lambda")),
    RecipeCase("recipe: slerp", "slerp", 2, coefficients=("t",)),
    RecipeCase("recipe: nuslerp", "nuslerp", 2, coefficients=("t",)),
    RecipeCase("recipe: multislerp", "multislerp"),
    RecipeCase("recipe: breadcrumbs", "breadcrumbs", coefficients=("weight", "density", "gamma")),
    RecipeCase("recipe: sce", "sce", coefficients=("density",)),
    RecipeCase(
        "recipe: dare_linear, 1/density", "dare_linear", coefficients=("weight", "density"), random=True
    ),
    RecipeCase("recipe: stack, layers scaled"),
)


def yaml_text(case: Case, root: Path, experts: Sequence[str], layers: int, dtype: str) -> str:
    """The file of a case over the models in folder `root`."""
    if case.text:
        a, b = experts[:2]
        return case.text.format(root=root, a=a, b=b, layers=layers, dtype=dtype)
    chosen = list(experts)[: case.experts or len(experts)]
    lines = [f"merge_method: {case.method}"]
    if case.base:
        lines += [f"base_model: {root}/base"]
    lines += ["models:"]
    for index, name in enumerate(chosen):
        each = case.each[index % len(case.each)]
        lines += [f"  - {{model: {root}/{name}, parameters: {each}}}"]
    return "\n".join(
        [*lines, f"parameters: {case.shared}", "dtype: float32", f"out_dtype: {dtype}", ""]
    )


def recipe_of(case: RecipeCase, root: Path, experts: Sequence[str], layers: int, dtype: str) -> Recipe:
    """The recipe of a case over the models in folder `root`."""
    sources = {name: CheckpointSource(str(root / name)) for name in ("base", *experts)}
    a, b = experts[:2]
    if not case.method:
        path = (LayerStep(a, 0), LayerStep(b, 1, 0.5), LayerStep(b, 1), *(
            LayerStep(a, layer) for layer in range(1, layers)
        ))  # fmt: skip
        return Recipe(sources, path, {"embed": a, "final_norm": a, "head": a}, dtype)
    inputs = tuple(experts)[: case.inputs or len(experts)]
    tables: dict[str, Any] = {}
    for name in case.coefficients:
        keys = ("*",) if name in ("lambda", "t") or case.method == "sce" else inputs
        tables[name] = {key: _varied(number, layers) for number, key in enumerate(keys)}
        if name == "gamma":
            tables[name] = {"*": {"": 0.02}}
    base = None if case.method in ("linear", "slerp") else "base"
    merged = MergedSource(case.method, inputs, base, tables, case.options or {})
    return single_source_recipe({**sources, "merged": merged}, "merged", layers, dtype)


def _varied(number: int, layers: int) -> dict[str, float]:
    """A coefficient between 0.2 and 0.9 with another value at each layer and module."""
    table = {"": 0.3 + 0.1 * number, "embed": 0.45, "final_norm": 0.6}
    for layer in range(layers):
        table[f"layers.{layer}.attn"] = round(0.2 + (0.13 * layer + 0.3 * number) % 0.7, 3)
        table[f"layers.{layer}.mlp"] = round(0.2 + (0.29 * layer + 0.2 * number) % 0.7, 3)
    return table
