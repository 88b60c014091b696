"""Preferences cover the simplex, coarse before fine."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from evomerge.optimizers.preferences import around, drawn, in_turn, lattice, outwards, pulled


@pytest.mark.parametrize("objectives", [2, 3, 4, 6])
def test_points_lie_on_the_simplex_and_none_comes_twice(objectives):
    points = list(itertools.islice(lattice(objectives), 200))
    assert len(set(points)) == 200
    assert all(min(p) >= 0 and math.isclose(sum(p), 1, abs_tol=1e-9) for p in points)
    corners = {tuple(map(float, row)) for row in np.eye(objectives)}
    assert set(points[:objectives]) == corners


def test_the_first_points_are_spread():
    """However many are taken, no preference is far from one of them: the gap falls with the number."""
    rng = np.random.default_rng(0)
    targets = drawn(2000, 3, 1.0, rng)
    gaps = []
    for count in (3, 7, 22, 60):
        points = np.array(list(itertools.islice(lattice(3), count)))
        gaps.append(float(np.abs(targets[:, None] - points[None]).sum(axis=2).min(axis=1).max()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.25


def test_with_one_objective_there_is_one_preference():
    assert list(lattice(1)) == [(1.0,)]


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_outwards_it_is_the_lattice_from_its_middle(objectives):
    """The same preferences, none twice: the middle, what lies between two corners, the corners."""
    edges = objectives * (objectives - 1) // 2
    count = 1 if objectives == 1 else 300
    found = list(itertools.islice(outwards(objectives), count))
    assert found[0] == pytest.approx((1 / objectives,) * objectives)
    assert len(set(found)) == count
    several = [sum(share > 0 for share in point) for point in found[1:]]
    between = edges - (objectives == 2)  # whose one edge has the middle for its own
    assert several[: between + objectives] == ([2] * between + [1] * objectives)[: count - 1]
    whole = set(itertools.islice(lattice(objectives), count))
    assert set(found) - whole <= {found[0]}
    assert list(outwards(1)) == [(1.0,)]


def test_around_a_focus_they_are_drawn_near():
    focus = (0.6, 0.3, 0.1)
    first, *others = itertools.islice(around(3, focus, 0.3), 40)
    assert first == focus
    expected = pulled(np.array(list(itertools.islice(outwards(3), 39))), focus, 0.3)
    assert np.array(others) == pytest.approx(expected)
    assert np.abs(np.array(others) - focus).max() == pytest.approx(0.3 * 0.9)
    assert np.array(others).sum(axis=1) == pytest.approx(np.ones(39))
    assert np.array(others).min() >= 0.0
    assert list(itertools.islice(around(3, None, 0.3), 9)) == list(itertools.islice(outwards(3), 9))


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_in_turn_each_objective_is_foremost(objectives):
    found = in_turn(0, 40 * objectives, objectives, 0.8, (7, 3))
    assert np.allclose(found.sum(axis=1), 1.0)
    assert found.min() >= 0.0
    assert np.array_equal(found.argmax(axis=1), np.arange(len(found)) % objectives)
    assert objectives == 1 or len(np.unique(found)) == found.size, "each is a draw of its own"


def test_in_turn_preferences_are_distributed_as_if_drawn_apart():
    found = in_turn(0, 6000, 3, 0.8, (7, 3))
    apart = drawn(6000, 3, 0.8, np.random.default_rng(1))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(found, share, axis=0) == pytest.approx(np.quantile(apart, share), abs=0.02)
    assert np.corrcoef(found.T) == pytest.approx(np.corrcoef(apart.T), abs=0.05)


def test_in_turn_is_one_sequence_wherever_it_is_begun():
    whole = in_turn(0, 12, 3, 0.8, (7, 3))
    pieces = [
        in_turn(first, count, 3, 0.8, (7, 3)) for first, count in ((0, 5), (5, 0), (5, 1), (6, 6))
    ]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert not np.array_equal(in_turn(0, 12, 3, 0.8, (8, 3)), whole)
