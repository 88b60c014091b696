"""The table of merge methods: complete, consistent and carried out by the engine."""

import re

import pytest

from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.method import MergeMethod


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_methods_declaration_is_consistent(method: MergeMethod) -> None:
    assert METHODS[method.name] is method
    assert re.search(r"\b(19|20)\d\d\b", method.paper), "a paper has a year"
    least, most = method.inputs
    assert least >= 1
    assert most is None or least <= most
    names = [coefficient.name for coefficient in method.coefficients]
    assert len(set(names)) == len(names) > 0
    for coefficient in method.coefficients:
        assert coefficient.low < coefficient.high
        assert coefficient.low <= coefficient.default <= coefficient.high
        assert method.coefficient(coefficient.name) is coefficient
        assert coefficient.meaning
    assert method.coefficient("nothing") is None
    # What trims by magnitude needs the order statistics that `prepare` makes; what drops at random not.
    assert ("magnitudes" in method.statistics) == (method.sparsify in ("magnitude", "band"))
    assert ("variances" in method.statistics) == (method.sparsify == "variance")
    spherical = ("slerp", "karcher", "multislerp", "model_stock")
    assert ("gram" in method.statistics) == (method.scalars in spherical)
    assert ("density" in names) == (method.sparsify != "none") or method.makes_whole
    assert ("t" in names) == (method.scalars == "slerp" or method.name == "nearswap")
    assert not method.elect or method.needs_base
    for name, values in method.options:
        assert name
        assert len(set(values)) == len(values) > 0


def test_the_methods_of_the_first_release_are_there() -> None:
    assert {"linear", "task_arithmetic", "slerp", "ties", "dare_ties"} <= set(METHODS)
