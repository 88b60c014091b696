"""What a candidate's genome comes back as: itself, to the bit."""

from __future__ import annotations

import pickle
import struct
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from evomerge.ledger.candidate import Candidate

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "genome",
    [
        None,
        (),
        (0.25, 0.0, 0.25),
        (0.0, -0.0, 1e-300),
        (0.0, 1, True),
        tuple((np.round(RNG.random(504) * 1500) / 1000).tolist()),
        tuple(RNG.random(70_000).tolist()),
    ],
)
def test_a_genome_comes_back_to_the_bit(genome):
    candidate = Candidate("c00000", "recipe", genome)
    found = candidate.genome
    if genome is None:
        assert found is None
        return
    assert found == genome
    assert list(map(type, found)) == list(map(type, genome))
    assert struct.pack(f"{len(found)}d", *found) == struct.pack(f"{len(genome)}d", *genome)
    assert candidate == Candidate("c00000", "recipe", genome)
    assert deepcopy(candidate).genome == pickle.loads(pickle.dumps(candidate)).genome == genome
    assert replace(candidate, genome=(1.0,)).genome == (1.0,)


def test_without_a_genome():
    assert Candidate("base", "recipe").genome is None
