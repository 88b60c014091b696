"""Whether a method says rightly that its merge is linear in the weights: by numbers, in both directions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from evomerge.checkpoint.reader import open_readers
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import MergedSource
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import EXPERTS, TEXT, merged
from tests.merge.passes.test_methods import MERGES, UP, result, stored, with_weights

TENSORS = (UP, "model.layers.1.self_attn.q_proj.weight", "model.layers.1.input_layernorm.weight")

LINEAR, BENT = 1e-5, 1e-3
"""Below the first a difference is of float32's rounding, above the second of the method."""


def at_defaults(name: str, **options: str) -> MergedSource:
    """A merge by a method with the defaults of its coefficients, and of its options but these."""
    method = METHODS[name]
    numbers = {each.name: each.default for each in method.coefficients}
    most = method.inputs[1]
    base = "base" if method.uses_base(method.resolve(options)) else None
    found = merged(name, EXPERTS[:most], base, options, **numbers)
    return dataclasses.replace(found, calibration=TEXT) if method.on_inputs else found


SOURCES = {
    **{f"{name} at its defaults": at_defaults(name) for name in METHODS},
    **{
        f"{name} with {option} {value}": at_defaults(name, **{option: value})
        for name, method in METHODS.items()
        for option, values in method.options
        for value in values[1:]
    },
    **MERGES,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    family = write_family(tmp_path_factory.mktemp("family"), dtype=torch.float32)
    return family, WeightStatistics(family), open_readers(family)


def moved(engine, source, weights):
    """What a merge with these weights adds to the base, or to nothing: float64 [elements]."""
    weighed = with_weights(source, dict(zip(source.inputs, weights.tolist(), strict=True)))
    method = METHODS[source.method]
    based = method.uses_base(method.resolve(source.options))
    parts = []
    for tensor in TENSORS:
        found = result(engine, weighed, tensor).double()
        parts.append((found - stored(engine, "base", tensor).double() if based else found).flatten())
    return torch.cat(parts)


def apart(one, other):
    """Relative L2."""
    return float((one - other).norm() / other.norm())


def measured(engine, source):
    """How far a merge is from linear in the weights, and from linear in those divided by their sum."""
    rng = np.random.default_rng(1)
    bend, growth, decline = 0.0, 0.0, 0.0
    for _ in range(3):
        # Where shares sum to 1, what is linear in weights or in shares is affine.
        first, second = rng.dirichlet(np.ones(len(source.inputs)), 2)
        ends = [moved(engine, source, shares) for shares in (first, second)]
        middle = moved(engine, source, 0.3 * first + 0.7 * second)
        bend = max(bend, apart(middle, 0.3 * ends[0] + 0.7 * ends[1]))
        larger = moved(engine, source, 1.7 * first)
        growth = max(growth, apart(larger, 1.7 * ends[0]))
        decline = max(decline, apart(larger, ends[0]))
    return max(bend, growth), max(bend, decline)


def test_methods_without_weights_claim_nothing():
    without = [method for method in METHODS.values() if method.coefficient("weight") is None]
    assert {"slerp", "model_stock", "sce", "ram"} <= {method.name for method in without}
    assert not any(method.is_linear() or method.has_slopes() for method in without)


@pytest.mark.parametrize(
    "case", [name for name, source in SOURCES.items() if METHODS[source.method].coefficient("weight")]
)
def test_a_method_is_linear_where_it_says_so_and_nowhere_else(engine, case):
    """Independent of how slopes are made: what passes has slopes, what does not pass has none."""
    source = SOURCES[case]
    method = METHODS[source.method]
    options = method.resolve(source.options)
    of_weights, of_shares = measured(engine, source)
    for distance, claimed in (
        (of_weights, method.is_linear(options)),
        (min(of_weights, of_shares), method.has_slopes(options)),
    ):
        assert distance < LINEAR or distance > BENT, "no telling"
        assert (distance < LINEAR) == claimed
