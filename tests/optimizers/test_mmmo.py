"""MM-MO as published: an acquisition that is not zero, and each of its three ideas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers import mmmo as mmmo_module
from evomerge.optimizers.gaussian import Chain, Hyperparameters, condition, fitted_at
from evomerge.optimizers.improvement import greedy
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.mmmo import Mmmo, information
from evomerge.optimizers.proposals import Asked
from evomerge.optimizers.recorded_settings import as_begun, to_record
from evomerge.optimizers.sequential import Effort, Improvement, best_points
from evomerge.optimizers.settings import MmmoSettings
from evomerge.optimizers.told import learned
from evomerge.testing.problems import dtlz2, merge_like, minimised, unit_genes, zdt1
from tests.optimizers.few_points import few_points  # noqa: F401


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


def test_the_acquisition_is_not_zero_everywhere_as_in_the_release_and_takes_what_adds_most(seen):
    """Of values in percents; by exact hypervolume over joint draws of the models that are drawn here.

    The first point adds more than any of three hundred that are drawn at random, and than those around them.
    """
    mmmo, known, told, rng = seen
    problem = merge_like(layers=3)
    pending = (tuple([0.3] * 9), tuple([0.9] * 9))
    asked = Asked(problem.genes, problem.objectives, told, 3, rng, MmmoSettings(), pending)
    models = mmmo.models(known, None, (len(told), len(told)))
    points = mmmo._acquire(asked, known, models)
    assert points.shape == (6, 9)
    assert len(np.unique(points, axis=0)) == 6
    assert not {*map(tuple, points.tolist())} & {*pending, *(genome for genome, _ in told)}
    drawn = np.random.default_rng(8)
    rows = np.vstack([pending, points[0], np.round(1.5 * drawn.random((300, 9)), 3)])
    columns = [m.draw(mmmo.features(rows), drawn.normal(size=(64, len(rows)))) for m in models]
    columns.append(np.broadcast_to(mmmo.sparsity(rows), columns[0].shape))
    values = np.stack(columns, axis=2)
    front = np.column_stack([known.values, mmmo.sparsity(known.genomes)])
    gains = np.zeros(301)
    for draw in values:
        before = np.vstack([front, draw[:2]])
        least = hypervolume(before)
        gains += [hypervolume(np.vstack([before, row])) - least for row in draw[2:]]
    assert (gains[1:] > 0.0).mean() > 0.5, "most points may add hypervolume"
    assert gains[0] > max(1.1 * gains[1:].max(), 2.0 * gains.mean())


def improvement(seen, draws=32, most=4):
    """What a next point adds, of the models of what was told; the same each time."""
    mmmo, known, told, _ = seen
    models = mmmo.models(known, None, (len(told), len(told)))
    front = mmmo._front(known, True)
    parts = ([], mmmo.features, [mmmo.sparsity], front, most, draws, np.random.default_rng(2))
    return Improvement(models, *parts)


def test_a_point_that_is_refined_adds_more_than_any_that_it_began_with(seen):
    mmmo, *_ = seen
    pool = np.round(1.5 * np.random.default_rng(4).random((200, 9)), 3)
    raw = improvement(seen).gains(pool, 32).max()
    found = {}
    for rounds in (0, 4):
        effort, rng = Effort(32, 8, rounds=rounds), np.random.default_rng(5)
        points = best_points(improvement(seen), mmmo._grid, pool, 3, set(), effort, rng)
        assert len({tuple(row) for row in points.tolist()}) == 3
        found[rounds] = improvement(seen).gains(points[:1], 32)[0]
    assert found[0] <= raw * (1.0 + 1e-9)
    assert found[4] > 1.05 * raw
    taken = {tuple(row) for row in pool[1:].tolist()}
    raw_only = Effort(32, 8, rounds=0)
    last = best_points(improvement(seen), mmmo._grid, pool, 3, taken, raw_only, rng)
    assert last.tolist() == [pool[0].tolist()], "nothing else is left"


def test_a_point_adds_less_after_its_neighbour(seen):
    there = np.full((1, 9), 0.7)
    gaining = improvement(seen)
    rows = np.vstack([there + 0.01, [[1.4, 0.1, 0.2] * 3]])
    before = gaining.gains(rows, 32)
    gaining.add(there)
    after = gaining.gains(rows, 32)
    assert after[0] < 0.5 * before[0]
    assert after[1] > 0.5 * before[1]


def test_draws_one_after_another_are_joint_draws(seen):
    """By the same normal numbers those of the whole posterior, but for what makes it invertible."""
    mmmo, known, told, _ = seen
    (model, *_) = mmmo.models(known, None, (len(told), len(told)))
    rng = np.random.default_rng(6)
    features, normal = mmmo.features(1.5 * rng.random((5, 9))), rng.normal(size=(40, 6))
    chain = Chain(model, normal)
    found = [chain.add(row[None])[:, 0] for row in features]
    wanted = model.draw(features, normal[:, :5])
    assert pytest.approx(wanted, abs=0.02 * np.sqrt(model.variance)) == np.array(found).T
    again = Chain(model, normal)
    again.add(features[:1])
    assert again.draw(features[1:2], 7)[:, 0] == pytest.approx(wanted[:7, 1], abs=0.02)


def test_each_gene_has_a_length_scale_of_its_own_for_each_objective():
    """Objectives of which each depends on one gene alone: no other gene's scale is as short."""
    rng = np.random.default_rng(1)
    genes = unit_genes(4)
    told = [
        (tuple(row), Complete((float(np.sin(6.0 * row[1])), float(np.cos(6.0 * row[2]))), (0.0, 0.0)))
        for row in np.round(rng.random((40, 4)), 3).tolist()
    ]
    mmmo = Mmmo(genes, ())
    scales = [each.chosen.scales for each in mmmo.models(learned(told, set(), 4), None, (40, 40))]
    assert [int(np.argmin(each)) for each in scales] == [1, 2]
    assert all(sorted(each)[1] > 2.0 * min(each) for each in scales)
    assert len(Mmmo(unit_genes(201), ())._fits._sizes) < 10


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("acquisition", ["refined", "pool"])
def test_random_candidates_are_counted_without_what_was_given(acquisition):
    """Ten of them, and then a model; ledgers from before counted what was given too."""
    problem = merge_like(layers=2)
    settings = as_begun("mmmo", {}, None if acquisition == "pool" else to_record(MmmoSettings()))
    assert (settings.start, settings.acquisition) == (10, acquisition)
    search = make_optimizer(
        "mmmo", problem.genes, problem.objectives, population=1, seed=3, initial=problem.initial,
        settings=settings, schedule="steady_state",
    )  # fmt: skip
    ways = []
    for number in range(18):
        (genome,) = search.ask()
        ways += [descent.origin.how for descent in search.descents()]
        search.tell([problem.outcome(genome)], [number])
    given = len(problem.initial)
    drawn = 10 if acquisition == "refined" else 10 - given
    assert ways == ["given"] * given + ["random"] * drawn + ["step"] * (18 - given - drawn)


def test_of_a_pool_it_takes_what_adds_most_as_ledgers_from_before_have_it(seen, monkeypatch):
    """By exact hypervolume over the draws that it was made of."""
    _, known, told, rng = seen
    problem, offers = merge_like(layers=3), []
    mmmo = Mmmo(problem.genes, problem.initial, "pool")

    def spied(front, pending, pool, *rest):
        offers.append((front, pending, pool, greedy(front, pending, pool, *rest)))
        return offers[-1][-1]

    monkeypatch.setattr(mmmo_module, "greedy", spied)
    pending = (tuple([0.3] * 9), tuple([0.9] * 9))
    asked = Asked(problem.genes, problem.objectives, told, 3, rng, MmmoSettings(), pending)
    models = mmmo.models(known, None, (len(told), len(told)))
    points = mmmo._acquire_from_pool(asked, known, models)
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
    there = information(models, mmmo.features(known.genomes))
    far = information(models, mmmo.features(np.tile([1.5, 0.0, 1.5], (1, 3))))
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


def acquired(seen, monkeypatch, **switches):
    """What is asked of six points that the acquisition is made to give, and these points."""
    mmmo, _, told, rng = seen
    points = np.round(1.5 * np.random.default_rng(7).random((6, 9)), 3)
    monkeypatch.setattr(Mmmo, "_acquire", lambda *_: points.copy())
    problem = merge_like(layers=3)
    settings = MmmoSettings(start=6, **switches)
    request = Asked(problem.genes, problem.objectives, told, 3, rng, settings, (), asks_again=False)
    return mmmo(request), points


def test_fisher_information_picks_the_half_of_which_least_is_known(seen, monkeypatch):
    mmmo, known, told, _ = seen
    plain, points = acquired(seen, monkeypatch, weak_to_strong=False, fisher=False)
    assert plain.tolist() == points[:3].tolist(), "without it the first of the acquisition"
    least, _ = acquired(seen, monkeypatch, weak_to_strong=False)
    at = (fitted_at(len(told)), len(told))
    models = mmmo.models(known, learned(told[: at[0]], mmmo._initial, 9, asks_again=False), at)
    amounts = information(models, mmmo.features(points))
    assert least.tolist() == points[np.argsort(amounts)[:3]].tolist()
    assert least.tolist() != points[:3].tolist()


def test_weak_to_strong_crosses_each_point_with_a_step_among_the_five_best(seen, monkeypatch):
    mmmo, known, _, _ = seen
    plain, points = acquired(seen, monkeypatch, weak_to_strong=False, fisher=False)
    crossed, _ = acquired(seen, monkeypatch, fisher=False)
    best = known.genomes[np.argsort(known.values.sum(axis=1))[:5]]
    every = [
        mmmo._grid.snap(np.clip(a + 0.5 * (b - c), mmmo._grid.low, mmmo._grid.high)[None])[0]
        for a, b, c in itertools.permutations(best, 3)
    ]
    for row, point in zip(crossed, points[:3], strict=True):
        taken = row != point
        assert taken.any()
        assert any((row[taken] == step[taken]).all() for step in every), "a gene of neither"
    assert (crossed == plain).any(), "nothing is left of the points themselves"


def test_of_points_that_are_as_good_sparsity_takes_the_sparsest(seen):
    """Models that say the same of every point, which beats all that is known: only sparsity can tell them."""
    mmmo, known, told, rng = seen
    problem, chosen = merge_like(layers=3), {}
    features = mmmo.features(known.genomes)
    flat = condition(features, [1] * 9, np.full(len(features), -0.2), Hyperparameters((0.0,) * 9, -4.0))
    for sparsity in (True, False):
        settings = MmmoSettings(sparsity=sparsity)
        request = Asked(problem.genes, problem.objectives, told, 3, rng, settings)
        chosen[sparsity] = mmmo.sparsity(mmmo._acquire(request, known, [flat] * 3)[:1])[0]
    assert chosen[True] < 0.15, "none of the points that are drawn at random is half as sparse"
    assert chosen[False] > 0.2


def test_what_breaks_a_bound_adds_nothing(seen):
    """The acquisition takes points from the half of the space that keeps it, of the same models from both."""
    mmmo, known, told, rng = seen
    problem = merge_like(layers=3)
    models = mmmo.models(known, None, (len(told), len(told)))
    # Broken by far or kept by far on both sides of the middle, as told of two hundred points.
    many = 1.5 * np.random.default_rng(9).random((200, 9))
    sides = np.where(many[:, 0] > 0.75, 1.0, -1.0)
    scales = Hyperparameters((np.log(0.5), *[np.log(20.0)] * 8), -6.0)
    half = condition(mmmo.features(many), [1] * 9, sides, scales)
    request = Asked(problem.genes, problem.objectives, told, 6, rng, MmmoSettings())
    assert (mmmo._acquire(request, known, models)[:, 0] > 0.75).any()
    assert (mmmo._acquire(request, known, models, [half])[:, 0] <= 0.8).all()


def bounded(genome, violation):
    """Two quadratics, best at 0.1 and at 0.4 everywhere, and a bound."""
    row = np.array(genome)
    values = tuple(float(((row - aim) ** 2).mean()) for aim in (0.1, 0.4))
    return Complete(values, (0.0, 0.0), (violation,))


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize("least", [0.7, 0.97])
def test_constraints_are_modelled_and_kept(least, schedule, monkeypatch):
    """Far from what is best; of the first six nothing keeps the stricter one."""
    shares = {}
    for modelled in (True, False):
        if not modelled:
            monkeypatch.setattr(Mmmo, "bounds", lambda *_: [])
        optimizer = make_optimizer(
            "mmmo",
            unit_genes(4),
            minimised(2),
            population=6,
            seed=2,
            schedule=schedule,
            settings=MmmoSettings(start=6),
        )
        broken = []
        while len(broken) < 30:
            batch = optimizer.ask()
            told = [bounded(genome, least - genome[0]) for genome in batch]
            optimizer.tell(told, list(range(len(broken), len(broken) + len(batch))))
            broken += [outcome.violations[0] > 0.0 for outcome in told]
        assert all(broken[:6]) or least == 0.7
        shares[modelled] = np.mean(broken[15:])
    assert shares[True] < 0.45
    assert shares[False] > shares[True] + 0.2


@pytest.mark.usefixtures("few_points")
def test_a_bound_that_says_nothing_changes_nothing():
    """A constraint of which every violation is 0 says nothing, and is asked as if there were none."""
    problem = zdt1(4)
    found = []
    for violations in ((), (0.0,)):
        optimizer = make_optimizer(
            "mmmo",
            problem.genes,
            problem.objectives,
            population=6,
            seed=1,
            settings=MmmoSettings(start=6),
        )
        batches = []
        for _ in range(3):
            batches.append(optimizer.ask())
            values = [problem.outcome(genome).values for genome in batches[-1]]
            optimizer.tell([Complete(each, (0.0, 0.0), violations) for each in values])
        found.append(batches)
    assert found[0] == found[1]


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("problem", [zdt1(1), zdt1(500), dtlz2(8, 6)], ids=["1", "500", "6 objectives"])
def test_any_number_of_genes_and_objectives(problem):
    found = asked(problem, MmmoSettings(start=6))
    assert len(set(found)) == len(found) == 24
