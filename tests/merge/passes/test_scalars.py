"""Scalars: shares add to one, SLERP stays on the arc and meets its ends exactly."""

import itertools

import numpy as np
import pytest

from evomerge.errors import CandidateError
from evomerge.merge.passes.scalars import normalised, slerp


def test_normalised():
    assert normalised([1.0, 3.0]) == [0.25, 0.75]
    assert sum(normalised([0.1, 0.2, 0.3])) == pytest.approx(1.0)
    with pytest.raises(CandidateError, match="sum to zero"):
        normalised([0.0, 0.0])


@pytest.mark.parametrize("ab", [0.0, 0.3, -0.7, 0.99949, 0.9999, 1.0, -1.0])
def test_ends_are_exact(ab):
    assert slerp(0.0, 1.0, ab, 1.0) == (1.0, 0.0)
    assert slerp(1.0, 1.0, ab, 1.0) == (0.0, 1.0)


def test_constant_speed_and_norm():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    points = []
    for t in np.linspace(0, 1, 9):
        first, second = slerp(float(t), 1.0, float(a @ b), 1.0)
        points.append(first * a + second * b)
    assert np.allclose([np.linalg.norm(p) for p in points], 1.0)
    steps = [p @ q for p, q in itertools.pairwise(points)]
    assert np.allclose(steps, steps[0])


def test_almost_parallel_and_zero_vectors_fall_back_to_lines():
    assert slerp(0.25, 1.0, 0.99951, 1.0) == (0.75, 0.25)
    assert slerp(0.25, 1.0, -0.99951, 1.0) == (0.75, 0.25)
    assert slerp(0.25, 0.0, 0.0, 1.0) == (0.75, 0.25)
    assert slerp(0.25, 1.0, 0.99949, 1.0) != (0.75, 0.25)
