"""Items of a step by objective."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evomerge.optimizers.allotment import allotted

PLENTY = np.array([1000, 1000, 1000])


def test_shares_are_in_proportion_to_weights_and_add_up():
    found = allotted(60, np.array([0.5, 0.3, 0.2]), PLENTY)
    assert found.tolist() == [30, 18, 12]
    assert allotted(7, np.array([1.0, 1.0, 1.0]), PLENTY).tolist() == [3, 2, 2], (
        "the first of equal ones"
    )


def test_what_an_objective_cannot_take_goes_to_the_others():
    assert allotted(60, np.array([0.8, 0.1, 0.1]), np.array([20, 100, 100])).tolist() == [20, 20, 20]
    assert allotted(60, np.array([0.8, 0.1, 0.1]), np.array([20, 5, 100])).tolist() == [20, 5, 35]


def test_of_too_few_items_all_are_given():
    assert allotted(60, np.array([0.5, 0.5]), np.array([3, 4])).tolist() == [3, 4]


def test_without_a_weight_or_items_an_objective_gets_none():
    assert allotted(10, np.array([0.5, 0.0, 0.5]), PLENTY).tolist() == [5, 0, 5]
    assert allotted(10, np.array([0.5, 0.4, 0.1]), np.array([0, 100, 100])).tolist() == [0, 8, 2]
    assert allotted(10, np.zeros(3), PLENTY).tolist() == [0, 0, 0]


def test_each_has_one_as_long_as_another_has_two():
    assert allotted(8, np.array([0.96, 0.02, 0.02]), PLENTY).tolist() == [6, 1, 1]
    assert allotted(2, np.array([0.9, 0.05, 0.05]), PLENTY).tolist() == [1, 1, 0]
    assert allotted(8, np.array([0.96, 0.04, 0.0]), PLENTY).tolist() == [7, 1, 0]


@pytest.mark.parametrize("objectives", [1, 2, 5, 9])
def test_nothing_is_lost_or_given_twice(objectives):
    rng = np.random.default_rng(objectives)
    for _ in range(200):
        weights, most = rng.dirichlet(np.full(objectives, 0.5)), rng.integers(0, 40, objectives)
        total = int(rng.integers(0, 100))
        found = allotted(total, weights, most)
        assert found.sum() == min(total, most.sum())
        assert (found <= most).all()
        free = np.flatnonzero(found < most - objectives)
        for one, other in itertools.permutations(free, 2):
            if weights[one] > weights[other]:
                assert found[one] >= found[other] - 1
                assert found[one] * weights[other] >= found[other] * weights[one] - objectives


def test_a_weighted_loss_is_least_noisy_with_items_in_proportion_to_weights():
    """Of all ways to share 12 items among three objectives whose losses are as noisy as each other's."""
    weights, most = np.array([0.65, 0.25, 0.1]), np.array([50, 50, 50])
    ways = [(a, b, 12 - a - b) for a in range(1, 11) for b in range(1, 12 - a)]
    least = min(ways, key=lambda way: sum(w**2 / n for w, n in zip(weights, way, strict=True)))
    assert tuple(allotted(12, weights, most).tolist()) == least
