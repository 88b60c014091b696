"""The refiner begins with all that was told, and on a learned map with the preference's own model."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete
from evomerge.objectives.origin import Origin
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.recorded_settings import refining_as_begun
from evomerge.optimizers.refiner import NEIGHBOURS, Refiner
from evomerge.optimizers.settings import REFINING
from evomerge.testing.optimizers import OBJECTIVES
from evomerge.testing.problems import dtlz2, zdt1
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


def outcomes(bed, genomes):
    return [(g, Complete(tuple(bed.loss(g, t) for t in range(2)), (0.0, 0.0))) for g in genomes]


def off(refiner, genome):
    """How far the place that it knows of a genome is from it, in the gene that differs most."""
    (point,) = refiner.chart.points(np.array([refiner.places[genome]]))
    return np.abs(point - np.array(genome)).max()


@pytest.mark.parametrize("kind", ["auto", "learned-front"])
def test_a_refiner_knows_where_on_its_own_chart_the_campaigns_points_lie(kind):
    """Without a focus a chart is spaced evenly, and a refiner's by preferences."""
    bed = Bed()
    settings = optimizer_settings(kind, {"steps": 12})
    before = make_optimizer(kind, GENES, OBJECTIVES, population=8, seed=1, settings=settings)
    before.begin(GROUND)
    bed.learn(before)
    told = outcomes(bed, before.ask())
    refiner = Refiner(GENES, OBJECTIVES, 2, [], FOCUS, told, before)
    assert set(refiner.places) == {genome for genome, _ in told}
    assert max(off(refiner, genome) for genome, _ in told) <= 0.03
    if kind == "auto":
        pairs = before.places.items()
        assert max(abs(refiner.places[genome][0] - place[0]) for genome, place in pairs) > 0.05


def test_a_later_refiner_knows_the_places_of_an_earlier_one():
    """The notes of what the earlier one asked for; those of another length are no places."""
    bed = Bed()
    settings = optimizer_settings("auto", {"steps": 12, "generations": 3})
    before = make_optimizer("auto", GENES, OBJECTIVES, population=8, seed=1, settings=settings)
    before.begin(GROUND)
    bed.learn(before)
    told = outcomes(bed, before.ask())
    earlier = Refiner(GENES, OBJECTIVES, 2, [], FOCUS, told, before)
    notes = {}
    for number in range(NEIGHBOURS + 3):
        (genome,) = earlier.ask()
        (notes[genome],) = earlier.notes([genome])
        ((_, outcome),) = outcomes(bed, [genome])
        earlier.tell([outcome], [number])
        told.append((genome, outcome))
    stranger = (0.5,) * len(GENES)
    told += outcomes(bed, [stranger])
    places = notes | {stranger: (0.5, 0.5)}
    later = Refiner(GENES, OBJECTIVES, 3, [], FOCUS, told, before, places)
    assert {genome for genome, _ in told} - set(later.places) == {stranger}
    assert {genome: later.places[genome] for genome in notes} == notes
    assert all(off(later, genome) == 0.0 for genome in notes)
    # The map's next neighbours come first again, and what was asked before is asked by nobody.
    (genome,) = later.ask()
    assert genome not in dict(told)
    assert later.descents()[0].origin.how == "map"
    assert later.made_for_preference() == next(iter(notes))


def test_given_genomes_do_not_come_before_the_preferences_own_model():
    bed = Bed()
    before = make_optimizer("auto", GENES, OBJECTIVES, population=8, seed=1)
    before.begin(GROUND)
    bed.learn(before)
    given = [(0.5,) * len(GENES)]
    refiner = Refiner(GENES, OBJECTIVES, 2, given, FOCUS, [], before)
    assert refiner.ask() == [refiner.made_for_preference()]


def test_without_a_map_no_model_was_made_for_the_preference():
    problem = zdt1(6)
    before = make_optimizer("random", problem.genes, problem.objectives, population=8, seed=1)
    refiner = Refiner(problem.genes, problem.objectives, 2, [], FOCUS, [], before)
    assert refiner.made_for_preference() is None


@pytest.mark.parametrize(
    ("settings", "sizes"), [(REFINING, [1] * 12), (refining_as_begun(None), [1, 12])]
)
def test_with_four_objectives_genes_have_length_scales_of_their_own_unless_it_began_before(
    settings, sizes
):
    problem = dtlz2(12, 4)
    before = make_optimizer("random", problem.genes, problem.objectives, population=8, seed=1)
    refiner = Refiner(
        problem.genes, problem.objectives, 2, [], (0.4, 0.3, 0.2, 0.1), [], before, settings=settings
    )
    assert refiner._by_genes._features.sizes == sizes
