"""Whole gradients, gene by gene, against central differences of the losses of genomes.

The chain is whole too: from a genome to the losses of its merge, from the gradient by place back to genes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.merge.passes.whole import LINEAR
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import MERGED, Recipe
from evomerge.recipe.rows import RowTable
from evomerge.search_space import SearchSpace, gene_gradient
from tests.run.slope_bed import (
    EXPERTS,
    Bed,
    bed_with,
    differences,
    relative,
    some_weights,
    space_of,
    widen_norms,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEP = 2e-3
"""Two steps of the grid of genes."""


@pytest.fixture(autouse=True)
def _wide_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    widen_norms(monkeypatch)


@pytest.fixture
def bed() -> Bed:
    return bed_with(tied=True)


def compare(bed: Bed, space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """The gradient by gene, and by differences: float64 [genes] each."""
    assert {gene.coefficient for gene in space.genes} == {"weight"}
    assert len(space.experts) == len(EXPERTS)
    rng = np.random.default_rng(4)
    middle = [g.low + (g.high - g.low) * rng.uniform(0.1, 0.4) for g in space.genes]
    at = np.array(space.snap(middle))

    def recipe(genome: np.ndarray) -> Recipe:
        return space.spelled_out(space.snap(genome.tolist()))

    found = gene_gradient(space, bed.slope(recipe(at)).gradient)
    return found, differences(lambda genome: bed.loss(recipe(genome)), at, STEP)


FIELDS: dict[str, dict[str, Any]] = {
    "model": {"field": "model"},
    "band": {"field": "band", "bands": 2},
    "curve": {"field": "depth_curve", "knots": 2, "outside_layers": "shared"},
    "lines": {"field": "lines", "outside_layers": "shared"},
    "module": {"field": "layer_module"},
    "tensor": {"field": "tensor"},
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_gene_of_a_field(field: str) -> None:
    # Of three layers two bands have one and two.
    bed = bed_with(tied=True, by_tensor=field == "tensor", layers=3 if field == "band" else 2)
    space = space_of(bed, "task_arithmetic", FIELDS[field])
    if field == "band":
        labels = [
            gene.name.removeprefix("weight.code.") for gene in space.genes if gene.input == "code"
        ]
        assert labels == ["embed", "layers.0", "layers.1-2", "final_norm"]
    found, expected = compare(bed, space)
    assert relative(found, expected) < 1e-3


METHOD_CASES: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"lambda": 0.7},
    "task_arithmetic by shares": {"options": {"divisor": "weight"}},
    "linear": {},
    "linear unnormalised": {"options": {"normalise": "no"}},
    "tsv_m": {"lambda": 1.1},
    "knots": {},
    "knots trimmed": {"density": 0.5},
    "star": {"eta": 0.6},
    "consensus": {"tall": 0.4},
    "pcb": {"density": 0.15},
    "tatr": {"trust": 0.93, "lambda": 0.8},
}
"""Whose merges are smooth in every gene, with numbers that are no weights and are held fixed."""


def test_every_method_of_parts_is_compared() -> None:
    parts = {name for name, method in METHODS.items() if method.makes_whole and method.has_slopes()}
    assert parts == set(LINEAR)
    assert parts <= {name.split()[0] for name in METHOD_CASES}


@pytest.mark.parametrize("case", METHOD_CASES)
def test_every_gene_of_a_method(bed: Bed, case: str) -> None:
    method, fields = case.split()[0], dict(METHOD_CASES[case])
    options = fields.pop("options", {})
    fixed = {name: {"value": value} for name, value in fields.items()}
    space = space_of(bed, method, {"field": "layer"}, fixed, options=options)
    found, expected = compare(bed, space)
    assert len(found) == 4 * len(EXPERTS), "embeddings, two layers, head and norm"
    assert relative(found, expected) < 1e-3


@pytest.mark.parametrize("method", ["task_arithmetic", *LINEAR])
def test_where_all_weights_are_zero_there_is_a_gradient_too(bed: Bed, method: str) -> None:
    weights = some_weights(bed)
    idle = bed.places.index("layers.1.mlp")
    weights[:, idle] = 0.0
    numbers = {
        each.name: each.default
        for each in METHODS[method].coefficients
        if each.name not in ("weight", "lambda")
    }
    found = bed.slope(bed.recipe(weights, method, **numbers)).gradient[:, idle]

    def loss(column: np.ndarray) -> float:
        moved = weights.copy()
        moved[:, idle] = column
        return bed.loss(bed.recipe(moved, method, **numbers))

    assert relative(found, differences(loss, weights[:, idle], STEP)) < 1e-3


def test_gradients_by_weight_matrix_add_up_to_those_by_module() -> None:
    coarse, fine = bed_with(tied=True), bed_with(tied=True, by_tensor=True)
    module = [
        next(i for i, p in enumerate(coarse.places) if f"{own}.".startswith(f"{p}."))
        for own in fine.places
    ]
    weights = some_weights(coarse)
    found = fine.slope(fine.recipe(weights[:, module], "linear")).gradient
    assert found.shape == (len(EXPERTS), len(fine.places)) == (3, 2 * 8 + 2)
    summed = np.zeros_like(weights)
    np.add.at(summed, (slice(None), module), found)
    np.testing.assert_allclose(
        summed, coarse.slope(coarse.recipe(weights, "linear")).gradient, rtol=1e-9
    )


class Rows:
    """Weights by row on the grid of a table, in its steps."""

    STEP = 1e-4

    def __init__(self) -> None:
        self.fine = bed_with(tied=True, by_tensor=True)
        self.bed = bed_with(tied=True, by_tensor=True, by_row=True)
        self.layout = self.bed.layout
        self.counts = np.array([self.layout.rows.get(place, 1) for place in self.fine.places])
        self.plain = self.fine.recipe(some_weights(self.fine), "task_arithmetic", **{"lambda": 0.7})
        shape = (len(EXPERTS), len(self.layout.leaves))
        self.steps = np.random.default_rng(3).integers(11_000, 16_000, shape)
        single = np.array([leaf in self.fine.places for leaf in self.layout.leaves])
        self.free = np.broadcast_to(~single, shape)
        """Which weights a table has: those of tensors with one number are the plain recipe's."""

    def recipe(self, moved: np.ndarray) -> Recipe:
        """The merge with weights moved by whole steps, [experts, leaves]."""
        tables: dict[str, dict[str, np.ndarray]] = {}
        for name, row in zip(EXPERTS, self.steps + moved, strict=True):
            parts = np.split(row, np.cumsum(self.counts)[:-1])
            tables[name] = {
                place: part.astype(np.int16)
                for place, part in zip(self.fine.places, parts, strict=True)
                if place in self.layout.rows
            }
        rows = RowTable(-1.0, self.STEP, tables)
        source = replace(self.plain.sources[MERGED], rows=rows)  # type: ignore[type-var]
        return replace(self.plain, sources={**self.plain.sources, MERGED: source})

    def difference(self, along: np.ndarray, by: int) -> float:
        """The slope along a direction of whole steps, by a central difference."""
        after, before = (self.bed.loss(self.recipe(sign * by * along)) for sign in (1, -1))
        return (after - before) / (2 * by * self.STEP)


def test_gradients_by_row() -> None:
    rows = Rows()
    found = rows.bed.slope(rows.plain).gradient
    assert found.shape == rows.steps.shape == (len(EXPERTS), rows.counts.sum())
    summed = np.add.reduceat(found, np.cumsum(rows.counts) - rows.counts, axis=1)
    # Factors are multiplied in another order.
    np.testing.assert_allclose(summed, rows.fine.slope(rows.plain).gradient, rtol=1e-5, atol=1e-6)

    # Where rows differ: all of them at once, and some of them one by one.
    gradient = rows.bed.slope(rows.recipe(np.zeros_like(rows.steps))).gradient
    rng = np.random.default_rng(5)
    directions = [np.where(rows.free, rng.choice([-1, 1], rows.steps.shape), 0) for _ in range(6)]
    along = np.array([rows.difference(each, 5) for each in directions])
    assert relative(np.array([np.sum(gradient * each) for each in directions]), along) < 1e-3
    drawn = rng.choice(np.flatnonzero(rows.free & (gradient != 0.0)), 64, replace=False)
    expected = []
    for place in drawn:
        one = np.zeros_like(rows.steps)
        one.flat[place] = 1
        expected.append(rows.difference(one, 100))
    assert relative(gradient.flat[drawn], np.array(expected)) < 1e-3
