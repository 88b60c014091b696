"""The coefficients of a page where genes are rows."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.report.coefficients import _by_place
from evomerge.search_space import SearchSpace
from tests.search_space.test_search_space import ROWS, SHARED_ROWS


@pytest.mark.parametrize("space", [ROWS, SHARED_ROWS], ids=["own", "shared"])
def test_every_place_has_the_mean_of_its_rows(space: SearchSpace) -> None:
    rng = np.random.default_rng(2)
    genome = space.snap(rng.uniform(-0.5, 1.5, len(space.genes)).tolist())
    found = _by_place(space, {"g0": genome})
    shown = {
        (of, found["places"][place]): value
        for of, ((place, _),), value in zip(
            found["input"], found["parts"], found["values"]["g0"], strict=True
        )
    }
    wanted: dict[tuple[str, str], list[float]] = {}
    for gene, value in zip(space.genes, genome, strict=True):
        for leaf in gene.places:
            place = leaf if leaf in space.layout.places else leaf.rpartition(".")[0]
            wanted.setdefault((gene.input, place), []).append(value)
    assert shown == {key: pytest.approx(np.mean(own), rel=1e-3) for key, own in wanted.items()}
    assert {place for _, place in shown} == set(space.layout.places)
