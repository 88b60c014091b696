"""The refiner begins with all that was told, and on a learned map with the preference's own model."""

from __future__ import annotations

import numpy as np

from evomerge.objectives.objective import Complete
from evomerge.objectives.origin import Origin
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.refiner import NEIGHBOURS, Refiner
from evomerge.testing.optimizers import OBJECTIVES
from evomerge.testing.problems import zdt1
from tests.optimizers.test_learned_front import GENES, GROUND, Bed

FOCUS = (0.8, 0.2)


def test_the_model_of_the_preference_comes_first_whatever_of_the_map_was_asked_before():
    bed = Bed()
    settings = optimizer_settings("auto", {"steps": 12, "preferences": 8, "generations": 3})
    before = make_optimizer("auto", GENES, OBJECTIVES, population=8, seed=1, settings=settings)
    before.begin(GROUND)
    bed.learn(before)
    told = [(g, Complete(tuple(bed.loss(g, t) for t in range(2)), (0.0, 0.0))) for g in before.ask()]
    assert len(before.places) >= NEIGHBOURS
    refiner = Refiner(GENES, OBJECTIVES, 2, [], FOCUS, told, before)
    (first,) = refiner.ask()
    assert [each.origin for each in refiner.descents()] == [Origin(how="map", preference=FOCUS)]
    assert first not in before.places
    own = before.lesson.map.points(np.array([FOCUS]))
    assert np.abs(np.array(first) - np.clip(own[0], 0.0, 1.5)).max() <= 1e-3


def test_what_was_told_before_is_what_it_goes_by():
    """Between the best points of two objectives, which lie where no simple start would look."""
    problem, rng = zdt1(6), np.random.default_rng(3)
    best = np.array([[0.2, 0.9, 0.1, 0.8, 0.3, 0.7], [0.3, 0.8, 0.2, 0.9, 0.2, 0.6]])

    def outcome(genome):
        return Complete(tuple(((np.array(genome) - best) ** 2).mean(axis=1).tolist()), (0.0, 0.0))

    drawn = [tuple(row) for row in np.round(rng.random((40, 6)), 3).tolist()]
    told = [(genome, outcome(genome)) for genome in drawn]
    before = make_optimizer("random", problem.genes, problem.objectives, population=8, seed=1)
    refiner = Refiner(problem.genes, problem.objectives, 2, [], (0.5, 0.5), told, before)
    sums = []
    for number in range(2):
        (genome,) = refiner.ask()
        assert genome not in drawn
        found = outcome(genome)
        sums.append(sum(found.values))
        refiner.tell([found], [number])
    assert max(sums) < min(sum(known.values) for _, known in told)
