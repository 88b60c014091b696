"""What a model is given to learn from: smooth values while they rank as the reported ones do, else these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evomerge.ledger.events.begin import STEERED
from evomerge.objectives.steering import ENOUGH, rank_correlation
from evomerge.optimizers.builtin import KINDS
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.surrogate import Surrogate
from evomerge.optimizers.told import learned
from evomerge.testing.problems import merge_like, minimised, zdt1
from tests.optimizers.few_points import few_points  # noqa: F401
from tests.optimizers.test_hm3 import target_outcome
from tests.search_space.test_layer_path import space

pytestmark = pytest.mark.usefixtures("few_points")

OPTIONS = {
    "surrogate": {"start": 4, "generations": 2, "inner_population": 8},
    "auto": {"generations": 2, "inner_population": 8},
    "mmmo": {"start": 4},
    "qlognehvi": {"start": 11, "samples": 2, "restarts": 1, "iterations": 1},
    "cma-es": {"weights": 1},
    "hm3": {"episodes": 4, "epochs": 2},
}
LATE = {"start": 24, "generations": 4, "inner_population": 12}


def told_as(problem, smooth):
    """The problem, with the smooth values that a function makes of the reported ones."""

    def outcome(genome):
        found = problem.outcome(genome)
        return replace(found, smooth=smooth(found.values))

    return replace(problem, outcome=outcome)


def against(values):
    return tuple(-value for value in values)


def asked(problem, kind="surrogate", batches=5, *, population=8, focus=None, again=False, **options):
    optimizer = make_optimizer(
        kind,
        problem.genes,
        problem.objectives,
        population=population,
        seed=3,
        initial=problem.initial,
        settings=optimizer_settings(kind, options),
        focus=focus,
    )
    if again:
        optimizer.asks_again = True
    if focus is not None:
        optimizer.begin(problem.ground)
        while requests := optimizer.slopes():
            optimizer.tell_slopes([problem.slope(request) for request in requests])
    found = []
    for _ in range(batches):
        batch = optimizer.ask()
        found += batch
        optimizer.tell([problem.outcome(genome) for genome in batch])
    return found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_kinds_that_steer_by_smooth_values_are_those_of_which_the_front_says_so(kind):
    """They ask for other points where smooth values are others."""
    problem, options = merge_like(layers=2), OPTIONS.get(kind, {})
    if kind == "hm3":
        walked = space(6, sources=["merged", "math", "code"], max_layers=8)
        outcome = target_outcome(walked.paths)
        problem = replace(
            problem, genes=walked.genes, objectives=minimised(2), initial=(), outcome=outcome
        )
    population = 2 if kind == "qlognehvi" else 4  # each point costs it half a second
    plain, misled = (
        asked(told_as(problem, smooth), kind, 5, population=population, **options)
        for smooth in (lambda values: (), against)
    )
    assert (plain != misled) == (kind in STEERED)


def test_where_smooth_values_rank_otherwise_the_reported_ones_are_modelled_and_searched():
    problem, rng = zdt1(4), np.random.default_rng(1)
    misled = told_as(problem, against)
    genomes = [tuple(row) for row in np.round(rng.random((30, 4)), 3).tolist()]
    told = [(genome, misled.outcome(genome)) for genome in genomes]
    assert learned(told, (), 4).used == ("reported", "reported")
    seen = Surrogate(problem.genes, (), 1, None, steady=False)
    models, features = seen._look(told).models, seen._features(np.array(genomes))
    reported = np.array([problem.outcome(genome).values for genome in genomes])
    for model, column in zip(models, reported.T, strict=True):
        assert rank_correlation(model.expect(features), column) > 0.9
    few = Surrogate(problem.genes, (), 1, None, steady=False)._look(told[: ENOUGH - 1]).models
    assert rank_correlation(few[1].expect(features), reported[:, 1]) < -0.5, "too few to tell"
    of_reported = asked(told_as(problem, lambda values: ()), **LATE)
    assert asked(misled, **LATE) == of_reported
    assert asked(told_as(problem, lambda values: tuple(v**3 for v in values)), **LATE) != of_reported


@pytest.mark.parametrize(("lack", "again"), [(1, False), (5, False), (0, True), (1, True)])
def test_few_candidates_without_smooth_values_do_not_take_them_from_the_others(lack, again):
    """As of a campaign that starts from members of an older one; where asks are made again, as ever."""
    problem, rng = merge_like(layers=2), np.random.default_rng(0)
    genomes = [tuple(row) for row in np.round(1.5 * rng.random((30, 6)), 3).tolist()]
    outcomes = [problem.outcome(genome) for genome in genomes]
    outcomes[:lack] = [replace(outcome, smooth=()) for outcome in outcomes[:lack]]
    told = list(zip(genomes, outcomes, strict=True))
    found = learned(told, (), 6, asks_again=again)
    assert set(found.used) == {"smooth" if lack <= (0 if again else 1) else "reported"}
    assert np.isfinite(found.values).all()


def test_auto_goes_by_what_all_candidates_say_and_not_by_those_of_its_chart_alone():
    """The few on the chart would not be enough to tell; with those that were given they are."""
    problem = merge_like(layers=3)
    rng = np.random.default_rng(2)
    given = (*problem.initial, *map(tuple, np.round(1.5 * rng.random((ENOUGH, 9)), 3).tolist()))
    problem = replace(problem, initial=given)
    options = OPTIONS["auto"] | {"steps": 4, "preferences": 4}
    # With it the model on the chart chooses as soon as there is one.
    options["focus"] = (0.4, 0.3, 0.3)

    def found(smooth):
        return asked(told_as(problem, smooth), "auto", 3, **options)

    reported, misled = found(lambda values: ()), found(against)
    assert misled == reported
    options["again"] = True
    assert found(against) != reported, "in stages the chart decides alone, as in ledgers from before"
    options["again"] = False
    assert found(lambda values: tuple(v**3 for v in values)) != reported
    few = replace(problem, initial=given[:5])
    shorter = asked(told_as(few, against), "auto", 3, **options)
    assert shorter != asked(told_as(few, lambda values: ()), "auto", 3, **options), "too few to tell"
