"""The gradient by gene, against finite differences of the values that genes spread over places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.search_space import SearchSpace, gene_gradient
from tests.search_space.test_search_space import EXPERTS, layout, row_layout, space, tensor_layout

FIELDS: dict[str, dict[str, Any]] = {
    "model": {"field": "model", "outside_layers": "shared"},
    "band": {"field": "band", "bands": 2},
    "layer": {"field": "layer", "low": -1.0},
    "layer_module": {"field": "layer_module"},
    "depth_curve": {"field": "depth_curve", "knots": 3},
    "depth_curve_shared": {"field": "depth_curve", "knots": 3, "outside_layers": "shared"},
    "lines": {"field": "lines", "outside_layers": "shared"},
    "tensor": {"field": "tensor"},
    "row": {"field": "row"},
    "row_shared": {"field": "row", "outside_layers": "shared"},
}


def differences(found: SearchSpace, gradient: np.ndarray) -> np.ndarray:
    """The slopes of sum(gradient * weights) along each gene, one step of its grid at a time."""

    def total(genome: list[float]) -> float:
        # The spread's own values: a recipe leaves out the ones that have no effect.
        weights = found._spread.values(genome)["weight"]
        return float(
            sum(g @ np.array(weights[e]) for g, e in zip(gradient, found.experts, strict=True))
        )

    middle = found.snap([(gene.low + gene.high) / 2 for gene in found.genes])
    slopes = []
    for index, gene in enumerate(found.genes):
        moved = list(middle)
        moved[index] = gene.snap(gene.low)
        slopes.append((total(list(middle)) - total(moved)) / (middle[index] - moved[index]))
    return np.array(slopes)


@pytest.mark.parametrize("part", [False, True], ids=["everywhere", "part"])
@pytest.mark.parametrize("field", FIELDS)
def test_the_gradient_by_gene_is_that_of_finite_differences(field: str, part: bool) -> None:
    fine = {"tensor": tensor_layout(), "row": row_layout(), "row_shared": row_layout()}
    over = fine.get(field, layout())
    if part:
        over = replace(over, active={"math": over.places[1:9], "code": over.places})
    found = space(over=over, weight=FIELDS[field])
    gradient = np.random.default_rng(3).normal(size=(len(EXPERTS), len(over.leaves)))
    slopes = gene_gradient(found, gradient)
    assert slopes.shape == (len(found.genes),)
    assert slopes.dtype == np.float64
    np.testing.assert_allclose(slopes, differences(found, gradient), rtol=1e-8, atol=1e-8)


def test_genes_of_other_coefficients_have_no_gradient() -> None:
    found = space("dare_linear", weight={"field": "layer"}, density={"field": "band", "bands": 2})
    slopes = gene_gradient(found, np.ones((len(EXPERTS), len(layout().places))))
    by_kind = {kind: [g.coefficient == kind for g in found.genes] for kind in ("weight", "density")}
    assert np.all(slopes[by_kind["density"]] == 0.0)
    assert np.all(slopes[by_kind["weight"]] > 0.0)


def test_a_gradient_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a gradient by place is \[2, 15\] here, found \[3, 15\]"):
        gene_gradient(space(), np.zeros((3, 15)))
