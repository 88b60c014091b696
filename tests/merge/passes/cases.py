"""One merge and more of every method, so that no test can forget a new one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from evomerge.merge.plan.entries import TensorPlan
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.recipe import MergedSource

TEXT = Calibration("calibration.txt").located(Path(__file__).parent)
"""Token ids: the tiny models have no tokenizer."""

EXPERTS = ("a", "b", "c")
WEIGHTS = {"a": 0.3, "b": {"": 0.9, "layers.1": 0.21}, "c": 1.1}
SIGNED = {"a": 0.3, "b": -0.7, "c": 1.1}
DENSITIES = {"a": 0.5, "b": 0.9, "c": 1.0}
RANKED = {"a": 0.5, "b": 0.7, "c": 0.3}


def merged(
    method="task_arithmetic", inputs=EXPERTS, base="base", options=None, seed=0, shifts=None, **tables
):
    """A merged source; a table is a number, or expert to number or places."""
    coefficients = {
        name: {
            key: (value if isinstance(value, dict) else {"": value})
            for key, value in (table if isinstance(table, dict) else {"*": table}).items()
        }
        for name, table in tables.items()
    }
    return MergedSource(method, inputs, base, coefficients, options or {}, seed, shifts or {})


def is_copy(entry: TensorPlan) -> bool:
    """Whether the result is one source tensor, rounded to the storage dtype."""
    plain = entry.base is None and len(entry.inputs) == 1 and entry.scale == 1.0
    return plain and entry.inputs[0].weight == 1.0 and not entry.by_row and not entry.elect


MERGEKIT = {"compat": "mergekit"}
CASES = {
    "linear": merged("linear", base=None, weight={"a": 0.2, "b": 0.9, "c": 0.4}),
    "linear_raw": merged("linear", base=None, weight=SIGNED, options={"normalise": "no"}),
    "task_arithmetic": merged(weight=WEIGHTS),
    "task_arithmetic_negated": merged(weight=SIGNED, **{"lambda": 0.7}),
    "task_arithmetic_shares": merged(weight=WEIGHTS, options={"divisor": "weight"}),
    "slerp": merged("slerp", ("a", "b"), None, t={"*": {"": 0.3, "layers.0": 0.8}}),
    "nuslerp": merged("nuslerp", ("a", "b"), t={"*": {"": 0.3, "layers.0": 0.8}}),
    "nuslerp_zero": merged("nuslerp", ("a", "b"), None, {"around": "zero"}, t=0.4),
    "nuslerp_rows": merged(
        "nuslerp", ("a", "b"), options={"along": "rows"}, t={"*": {"": 0.3, "layers.0": 1.0}}
    ),
    "nuslerp_columns": merged("nuslerp", ("b", "a"), options={"along": "columns"}, t=0.7),
    "nuslerp_zero_columns": merged(
        "nuslerp", ("a", "b"), None, {"around": "zero", "along": "columns"}, t=0.4
    ),
    "karcher": merged("karcher", base=None, weight=WEIGHTS),
    "karcher_base": merged("karcher", weight=WEIGHTS, options={"around": "base"}),
    "multislerp": merged("multislerp", weight=WEIGHTS),
    "multislerp_raw": merged("multislerp", weight=WEIGHTS, options={"normalise": "no"}),
    "multislerp_zero": merged("multislerp", base=None, weight=WEIGHTS, options={"around": "zero"}),
    "model_stock": merged("model_stock"),
    "model_stock_rows": merged("model_stock", options={"along": "rows"}, **{"lambda": 0.9}),
    "model_stock_scaled": merged("model_stock", **{"lambda": 1.3}),
    "ties": merged("ties", weight=WEIGHTS, density=0.37),
    "ties_model": merged("ties", weight=0.8, density=0.2, options={"trim": "model"}),
    "ties_sum": merged("ties", weight=WEIGHTS, density=0.37, options={"divisor": "none"}),
    "ties_mergekit": merged("ties", weight=SIGNED, density=0.37, options=MERGEKIT, **{"lambda": 0.8}),
    "ties_weight": merged("ties", weight=WEIGHTS, density=0.5, options={"divisor": "weight"}),
    "ties_rescaled": merged("ties", weight=WEIGHTS, density=0.37, options={"rescale": "l1"}),
    "dare_linear": merged("dare_linear", weight=SIGNED, density=DENSITIES, seed=3),
    "dare_linear_plain": merged(
        "dare_linear", weight=SIGNED, density=DENSITIES, seed=3, options={"rescale": "none"}
    ),
    "dare_linear_mergekit": merged(
        "dare_linear", weight=0.7, density=DENSITIES, seed=3, options=MERGEKIT
    ),
    "dare_ties": merged("dare_ties", weight=0.7, density=DENSITIES, seed=3),
    "dare_ties_mergekit": merged("dare_ties", weight=SIGNED, density=0.4, seed=3, options=MERGEKIT),
    "breadcrumbs": merged("breadcrumbs", weight=WEIGHTS, density=0.61, gamma=0.03),
    "breadcrumbs_ties": merged("breadcrumbs_ties", weight=WEIGHTS, density=DENSITIES, gamma=0.02),
    "breadcrumbs_ties_mergekit": merged(
        "breadcrumbs_ties", weight=WEIGHTS, density=0.6, gamma=0.02, options=MERGEKIT
    ),
    "della_linear": merged("della_linear", weight=SIGNED, density=RANKED, epsilon=0.2, seed=4),
    "della_linear_mergekit": merged(
        "della_linear", weight=SIGNED, density=RANKED, epsilon=0.2, seed=4, options=MERGEKIT
    ),
    "della": merged("della", weight=WEIGHTS, density=RANKED, epsilon={"a": 0.0, "*": 0.1}, seed=4),
    "della_mergekit": merged("della", weight=0.8, density=0.6, epsilon=0.1, seed=4, options=MERGEKIT),
    "sce": merged("sce", density=0.4),
    "sce_all": merged("sce", density=1.0),
    "tsv_m": merged("tsv_m", weight=WEIGHTS, **{"lambda": 0.9}),
    "iso_c": merged("iso_c", weight=WEIGHTS),
    "iso_cts": merged("iso_cts", weight=WEIGHTS, common=0.7),
    "knots": merged("knots", weight=WEIGHTS, density=0.37),
    "star": merged("star", weight=WEIGHTS, eta=0.4),
    "wudi": merged("wudi", weight={"a": 0.2, "b": 0.9, "c": 0.4}, **{"lambda": 0.8}),
    "regmean": dataclasses.replace(
        merged("regmean", weight={"a": 0.2, "b": 0.9, "c": 0.4}), calibration=TEXT
    ),
    "fisher": dataclasses.replace(
        merged("fisher", weight={"a": 0.2, "b": 0.9, "c": 0.4}, **{"lambda": 0.8}), calibration=TEXT
    ),
    "consensus": merged("consensus", weight=WEIGHTS, tall=0.4),
    "pcb": merged("pcb", weight=WEIGHTS, density=0.15),
    "magmax": merged("magmax", weight=SIGNED),
    "tatr": merged("tatr", weight=SIGNED, trust=0.93),
    "ram": merged("ram", r=0.0, epsilon=0.02),
    "ram_plus": merged("ram", r=0.6, alpha=0.9, epsilon=0.04, **{"lambda": 1.1}),
    "nearswap": merged("nearswap", ("b",), t={"*": {"": 0.03, "layers.0": 0.004}}),
    "arcee_fusion": merged("arcee_fusion", ("b",)),
    "arcee_fusion_less": merged("arcee_fusion", ("a",), iqr=0.4),
    "copy": merged(weight={"a": 0.0, "b": 1.0, "c": 0.0}),
}
