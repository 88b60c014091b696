"""MM-MO as published: an acquisition that is not zero, and each of its three ideas."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers import mmmo as mmmo_module
from evomerge.optimizers.improvement import greedy
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.mmmo import Mmmo, information
from evomerge.optimizers.proposals import Asked
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
    return mmmo, known, tuple(told), rng


def test_the_acquisition_is_not_zero_everywhere_as_in_the_release_and_takes_what_adds_most(
    seen, monkeypatch
):
    """Of values in percents; by exact hypervolume over the draws that it was made of."""
    mmmo, known, told, rng = seen
    problem, offers = merge_like(layers=3), []

    def spied(front, pending, pool, *rest):
        offers.append((front, pending, pool, greedy(front, pending, pool, *rest)))
        return offers[-1][-1]

    monkeypatch.setattr(mmmo_module, "greedy", spied)
    pending = (tuple([0.3] * 9), tuple([0.9] * 9))
    asked = Asked(problem.genes, problem.objectives, told, 3, rng, MmmoSettings(), pending)
    models = mmmo.models(known, None, (len(told), len(told)))
    points = mmmo._acquire(asked, known, models)
    ((front, under_way, pool, chosen),) = offers
    assert (points.shape, under_way.shape[1:]) == ((6, 9), (2, 4))
    assert not {*map(tuple, points.tolist())} & {*pending, *(genome for genome, _ in told)}

    def gain(index):
        """What a point adds to the front and to what is pending, in the mean over draws."""
        both = [
            (np.vstack([front, waiting]), draw[index])
            for waiting, draw in zip(under_way, pool, strict=True)
        ]
        return np.mean(
            [hypervolume(np.vstack([known, row])) - hypervolume(known) for known, row in both]
        )

    gains = np.array([gain(index) for index in range(0, pool.shape[1], 3)])
    assert (gains > 0.0).mean() > 0.5, "most points may add hypervolume"
    assert gain(chosen[0]) > max(0.9 * gains.max(), 2.0 * gains.mean())


def test_fisher_information_is_less_where_less_is_known(seen):
    mmmo, known, _, _ = seen
    models = mmmo.models(known, None, (len(known.genomes), len(known.genomes)))
    there = information(models, mmmo.unit(known.genomes))
    far = information(models, mmmo.unit(np.tile([1.5, 0.0, 1.5], (1, 3))))
    assert far.max() < there.min()


def test_sparsity_is_how_far_a_merge_is_from_the_base(seen):
    mmmo, _, _, _ = seen
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
