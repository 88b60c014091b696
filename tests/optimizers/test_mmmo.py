"""MM-MO as published: an acquisition that is not zero, and each of its three ideas."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed
from evomerge.objectives.pareto import REFERENCE
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.mmmo import Mmmo, information
from evomerge.optimizers.settings import MmmoSettings
from evomerge.optimizers.told import learned
from evomerge.testing.problems import dtlz2, merge_like, zdt1


@pytest.fixture(scope="module")
def seen():
    """A problem of percents with some of its points evaluated, and MM-MO over it."""
    problem = merge_like(layers=3)
    rng = np.random.default_rng(3)
    mmmo = Mmmo(problem.genes, problem.initial)
    genomes = [*problem.initial, *map(tuple, (1.5 * rng.random((10, 9))).tolist())]
    told = []
    for genome in genomes:
        outcome = problem.outcome(genome)
        percents = tuple(100.0 * value for value in outcome.values)
        told.append((genome, Complete(percents, (0.0,) * 3)))
    known = learned(told, set(problem.initial), 9)
    return mmmo, known, rng


def test_the_acquisition_is_not_zero_everywhere_as_in_the_release(seen):
    mmmo, known, rng = seen
    points = 1.5 * rng.random((200, 9))
    drawn = mmmo.drawn(
        mmmo.models(known, None, (len(known.genomes), len(known.genomes))), points, True, rng
    )
    told = np.column_stack([known.values, mmmo.sparsity(known.genomes)])
    beats = (drawn[:, :, None, :] < told).any(axis=3).all(axis=2) & (drawn < REFERENCE).all(axis=2)
    assert beats.any(axis=0).mean() > 0.5, "of random points most may add hypervolume"


def test_fisher_information_is_less_where_less_is_known(seen):
    mmmo, known, _ = seen
    models = mmmo.models(known, None, (len(known.genomes), len(known.genomes)))
    there = information(models, mmmo.unit(known.genomes))
    far = information(models, mmmo.unit(np.tile([1.5, 0.0, 1.5], (1, 3))))
    assert far.max() < there.min()


def test_sparsity_is_how_far_a_merge_is_from_the_base(seen):
    mmmo, _, _ = seen
    assert mmmo.sparsity(np.array([np.zeros(9), np.full(9, 0.75), np.full(9, 1.5)])) == pytest.approx(
        [0.0, 0.5, 1.0]
    )


def asked(problem, settings, rounds=4, schedule="generational"):
    optimizer = make_optimizer(
        "mmmo",
        problem.genes,
        problem.objectives,
        population=6,
        seed=1,
        initial=problem.initial,
        settings=settings,
        schedule=schedule,
    )
    found = []
    for _ in range(rounds):
        batch = optimizer.ask()
        found += batch
        told = [problem.outcome(genome) for genome in batch]
        told[0] = Failed("timeout")
        optimizer.tell(told)
    return found


def test_each_idea_can_be_switched_off_and_changes_what_is_asked():
    problem = merge_like(layers=3)
    every = asked(problem, MmmoSettings(start=6))
    for name in ("weak_to_strong", "fisher", "sparsity"):
        assert asked(problem, MmmoSettings(start=6, **{name: False})) != every


@pytest.mark.parametrize("problem", [zdt1(1), zdt1(500), dtlz2(8, 6)], ids=["1", "500", "6 objectives"])
def test_any_number_of_genes_and_objectives(problem):
    found = asked(problem, MmmoSettings(start=6))
    assert len(set(found)) == len(found) == 24
