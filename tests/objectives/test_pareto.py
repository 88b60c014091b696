"""Dominance and hypervolume against slow references that are plain to read."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evomerge.objectives import pareto
from evomerge.objectives.pareto import (
    chebyshev,
    dominates,
    hypervolume,
    knee,
    non_dominated,
    non_dominated_in_each,
    preferred,
)

# Few distinct values, so that ties and equal rows are common.
POINTS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 25), st.integers(1, 4)),
    elements=st.integers(0, 6).map(lambda n: n / 4),
)


@given(POINTS)
@settings(max_examples=300, deadline=None)
def test_non_dominated_is_what_comparing_all_pairs_says(points):
    rows = points.tolist()
    expected = [
        not any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)
        for row in rows
    ]
    assert non_dominated(points).tolist() == expected
    sets = np.stack([points, points[::-1]])
    assert non_dominated_in_each(sets).tolist() == [expected, expected[::-1]]
    with mock.patch.object(pareto, "MANY", 0):
        assert non_dominated_in_each(sets).tolist() == [expected, expected[::-1]]


@given(POINTS)
@settings(max_examples=150, deadline=None)
def test_hypervolume_is_the_number_of_covered_cells(points):
    # All coordinates are multiples of 1/4 and the reference is one too, so cells are all or nothing.
    reference = 1.25
    dimensions = points.shape[1]
    cells = np.array([*itertools.product(range(5), repeat=dimensions)]) / 4
    covered = (points[:, None] <= cells).all(axis=2).any(axis=0).sum()
    assert hypervolume(points, reference) == pytest.approx(covered / 4**dimensions, abs=1e-12)


def test_dominates_needs_one_strict_gain():
    a = np.array([1.0, 2.0])
    assert dominates(a, np.array([1.0, 3.0]))
    assert not dominates(a, a)
    assert not dominates(a, np.array([0.0, 3.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    points = np.array([[0.0, 1.0], [bad, 0.5]])
    for function in (non_dominated, hypervolume, knee, lambda p: non_dominated_in_each(p[None])):
        with pytest.raises(ValueError, match="a failed candidate has no place in a front"):
            function(points)
    with pytest.raises(ValueError, match=r"expected an array \[points, objectives\]"):
        non_dominated(np.zeros(3))


def test_picks():
    front = np.array([[0.0, 1.0], [0.4, 0.45], [0.9, 0.1]])
    assert knee(front) == 1
    assert preferred(front, np.array([0.9, 0.1])) == 0
    assert preferred(front, np.array([0.1, 0.9])) == 2


def test_a_weight_counts_alike_where_all_is_better_than_the_ideal():
    front = np.array([[-0.5, -0.1], [-0.3, -0.3], [-0.1, -0.5]])
    assert preferred(front, np.array([0.9, 0.1])) == 0
    assert preferred(front, np.array([0.1, 0.9])) == 2
    assert preferred(front, np.array([0.5, 0.5])) == knee(front) == 1
    assert preferred(front, np.array([1.0, 0.0])) == 0
    # What has no weight decides nothing, on either side of the ideal.
    other = np.array([[-0.2, -0.2, 1.0], [-0.1, -0.4, 0.5]])
    assert preferred(other, np.array([0.5, 0.5, 0.0])) == 0
    assert preferred(other + 0.5, np.array([0.5, 0.5, 0.0])) == 0


def test_a_preference_is_monotone_and_equal_weights_are_the_knee():
    rng = np.random.default_rng(0)
    for objectives in range(1, 7):
        for _ in range(50):
            scaled = np.round(rng.uniform(-0.6, rng.choice([0.0, 1.2]), (12, objectives)), 2)
            equal = np.full(objectives, 1.0 / objectives)
            assert preferred(scaled, equal) == int(np.argmin(chebyshev(scaled, equal)))
            weights = rng.dirichlet(np.ones(objectives))
            chosen = preferred(scaled, weights)
            assert non_dominated(scaled)[chosen]
            if not (scaled < 0.0).all(axis=1).any():
                assert chosen == int(np.argmin(chebyshev(scaled, weights)))


def test_of_equal_worst_objectives_the_other_decides():
    assert knee(np.array([[0.5, 0.5], [0.5, 0.4], [0.5, 0.45]])) == 1
