"""Seeders: weights from inner products, against the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.ledger.events import TaskVectors
from evomerge.optimizers import seeders
from tests.merge.passes import reference
from tests.search_space.test_search_space import METHOD_SPACES, layout


@pytest.fixture
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 40)) * np.array([[1.0], [2.0], [0.5]]) + 0.3


def test_metagpt_weighs_by_squared_norm(vectors: np.ndarray) -> None:
    squares = (vectors**2).sum(1)
    np.testing.assert_allclose(seeders.metagpt(vectors @ vectors.T), squares / squares.sum())
    assert seeders.metagpt(np.zeros((2, 2))) == seeders.uniform(2) == [0.5, 0.5]


def test_model_stock_is_the_methods_merge(vectors: np.ndarray) -> None:
    weights = seeders.model_stock(vectors @ vectors.T)
    np.testing.assert_allclose(weights @ vectors, reference.model_stock(list(vectors)), rtol=1e-9)


def test_lines_start_where_the_summed_norm_is_shared(vectors: np.ndarray) -> None:
    gram = vectors @ vectors.T
    assert seeders.lines(gram, [1.0, 1.0, 1.0]) == (pytest.approx(1 / 3), 1.0)
    weights = [0.2, 0.7, 0.4]
    alpha, beta = seeders.lines(gram, weights, 0.6)
    merged = weights @ vectors
    assert alpha * np.linalg.norm(merged) == pytest.approx(np.linalg.norm(vectors.sum(0)) / 3)
    assert beta == 0.6
    assert seeders.lines(gram, [0.0, 0.0, 0.0])[0] == pytest.approx(1 / 3)


def recorded(ratio: float) -> TaskVectors:
    """Inner products of orthogonal task vectors, alike everywhere but in the first layer's MLP."""
    gram = dict.fromkeys(("", *layout().places), ((1.0, 0.0), (0.0, ratio)))
    gram["layers.0.mlp"] = ((0.0, 0.0), (0.0, 1.0))
    return TaskVectors(experts=("math", "code"), gram=gram)


def test_seeds_of_a_space() -> None:
    fine = METHOD_SPACES["layer_module"]
    whole, local = seeders.metagpt_seeds(fine, recorded(3.0))
    assert whole == fine.uniform({"math": 0.25, "code": 0.75})
    by_name = {gene.name: value for gene, value in zip(fine.genes, local, strict=True)}
    assert by_name["weight.math.layers.0.mlp"] == 0.0
    assert by_name["weight.code.layers.0.mlp"] == 1.0
    assert by_name["weight.code.layers.1.mlp"] == 0.75
    lines = seeders.metagpt_seeds(METHOD_SPACES["lines"], recorded(1.0))
    assert lines[0] == METHOD_SPACES["lines"].uniform({"math": 0.5, "code": 0.5})


def test_no_seeds_without_weights_or_record() -> None:
    assert seeders.metagpt_seeds(METHOD_SPACES["slerp"], recorded(1.0)) == []
    assert seeders.metagpt_seeds(METHOD_SPACES["layer"], None) == []
