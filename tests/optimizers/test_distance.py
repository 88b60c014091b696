"""How far a merge is from the base by its coefficients: beside sums over the places of its recipe."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.optimizers.distance import Distance
from tests.search_space.test_search_space import space, values_of

LAYERS = {"field": "layer", "low": 0.0, "high": 1.5}
SPACES = {
    "weights": (space(weight=LAYERS), ()),
    "signed": (space(weight={"field": "band", "bands": 2, "low": -0.5, "high": 1.0}), ()),
    "curve": (space(weight={"field": "depth_curve", "knots": 2}), ()),
    "lines": (space(weight={"field": "lines", "low": 0.0, "high": 0.8}), ()),
    "lambda": (space(weight=LAYERS, **{"lambda": {"field": "model"}}), ("lambda",)),
    "dare": (space("dare_ties", weight=LAYERS, density={"field": "layer", "low": 0.1}), ()),
    "dare, not rescaled": (
        space("dare_linear", options={"rescale": "none"}, weight=LAYERS, density={"field": "model"}),
        ("density",),
    ),
    "ties": (space("ties", weight=LAYERS, density={"field": "band", "bands": 2}), ("density",)),
}  # fmt: skip


def size(found, genome, factors):
    """Sum over places and experts of weight times what it is multiplied by, of the recipe's values."""
    values = values_of(found.decode(genome), found)
    total = 0.0
    for (coefficient, expert, place), weight in values.items():
        if coefficient == "weight":
            part = abs(weight)
            for factor in factors:
                part *= values.get((factor, expert, place), values.get((factor, "*", place)))
            total += part
    return total


@pytest.mark.parametrize("name", SPACES)
def test_it_is_in_proportion_to_weights_and_what_multiplies_them(name):
    found, factors = SPACES[name]
    distance, rng = Distance(found.genes), np.random.default_rng(1)
    low = np.array([gene.low for gene in found.genes])
    high = np.array([gene.high for gene in found.genes])
    genomes = [
        tuple(gene.snap(value) for gene, value in zip(found.genes, row, strict=True))
        for row in (low + rng.random((8, len(low))) * (high - low)).tolist()
    ]
    shares = distance(np.array(genomes))
    sizes = np.array([size(found, genome, factors) for genome in genomes])
    assert shares / shares[0] == pytest.approx(sizes / sizes[0], rel=1e-6)
    if name != "signed":
        assert distance(high[None])[0] == pytest.approx(1.0)
    assert (shares > 0.0).all()
    assert (shares < 1.0).all()


def test_what_is_the_base_is_not_away_from_it_whatever_its_densities():
    for method in ("dare_ties", "ties"):
        genes = space(method, weight=LAYERS, density={"field": "layer"}).genes
        base = np.array([[0.0 if gene.coefficient == "weight" else 1.0 for gene in genes]])
        assert Distance(genes)(base) == pytest.approx([0.0])


def test_without_weights_it_is_that_by_lambda_or_nothing():
    stock = space("model_stock", **{"lambda": {"field": "model"}})
    high = np.array([[gene.high for gene in stock.genes]])
    assert Distance(stock.genes)(np.vstack([high, high / 2.0])) == pytest.approx([1.0, 0.5])
    between = space("slerp", t={"field": "layer"})
    assert Distance(between.genes)(np.full((2, len(between.genes)), 0.4)) == pytest.approx([0.0, 0.0])
