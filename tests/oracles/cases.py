"""The YAML files both programs carry out; `MODELS` are base and experts by folder name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
        iterative: whether mergekit stops an iteration early or forms its scalars in float32.
        random: whether masks are drawn.
    """

    name: str
    method: str
    each: tuple[str, ...] = ("{}",)
    shared: str = "{}"
    base: bool = True
    experts: int = 0
    iterative: bool = False
    random: bool = False


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
    Case("slerp", "slerp", ("{}",), "{t: [{filter: mlp, value: [0.1, 0.9]}, {value: 0.4}]}", experts=1,
         iterative=True),
    Case("nuslerp", "nuslerp", PLAIN, experts=2, iterative=True),
    Case("nuslerp, no base", "nuslerp", PLAIN, base=False, experts=2, iterative=True),
    Case("multislerp", "multislerp", PLAIN, iterative=True),
    Case("multislerp, no base", "multislerp", PLAIN, base=False, iterative=True),
    Case("karcher", "karcher", base=False, iterative=True),
    Case("model_stock", "model_stock", iterative=True),
    Case("ties", "ties", BOTH, "{lambda: 0.9}"),
    Case("ties, not normalised", "ties", BOTH, "{normalize: false, rescale: true}"),
    Case("breadcrumbs", "breadcrumbs", BOTH),
    Case("breadcrumbs_ties", "breadcrumbs_ties", BOTH, "{gamma: 0.05}"),
    Case("sce", "sce", shared="{select_topk: 0.6}"),
    Case("dare_linear, same masks", "dare_linear", BOTH, random=True),
    Case("dare_linear, no rescale", "dare_linear", BOTH, "{rescale: false}", random=True),
    Case("dare_ties, same masks", "dare_ties", BOTH, random=True),
    Case("dare_ties, normalised", "dare_ties", BOTH, "{normalize: true}", random=True),
    Case("della_linear, same masks", "della_linear", RANKED, random=True),
    Case("della, same masks", "della", RANKED, random=True),
)  # fmt: skip


def yaml_text(case: Case, root: str, experts: Sequence[str], dtype: str) -> str:
    """The file of a case over the models in folder `root`."""
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
