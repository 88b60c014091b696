"""The surrogate: what its model says, how a batch is chosen, and what it does with what has no values."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from evomerge.errors import ConfigError
from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.objectives.pareto import REFERENCE, chebyshev, hypervolume, non_dominated, preferred
from evomerge.optimizers.gaussian import Genes, Hyperparameters, Levels, condition, fit
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.improvement import gain_shares, greedy, near_volume
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.settings import SurrogateSettings
from evomerge.optimizers.slopes import SlopeRequest
from evomerge.optimizers.surrogate import Surrogate
from evomerge.optimizers.told import scaled
from evomerge.testing.problems import dtlz2, merge_like, unit_genes, zdt1, zdt2

QUICK = SurrogateSettings(start=8, generations=6, inner_population=16)


def searched(problem, evaluations, kind="surrogate", settings=QUICK, population=8, focus=None):
    """The genomes that a search of so many evaluations asks."""
    optimizer = make_optimizer(
        kind,
        problem.genes,
        problem.objectives,
        population=population,
        seed=3,
        initial=problem.initial,
        settings=settings,
        focus=focus,
    )
    asked = []
    while len(asked) < evaluations:
        batch = optimizer.ask()
        asked += batch
        optimizer.tell([problem.outcome(genome) for genome in batch])
    return asked[:evaluations]


def test_levels_hold_the_mean_of_a_group_its_depths_and_its_genes():
    problem = merge_like(layers=4, modules=3, experts=2)
    grid = Grid(problem.genes)
    levels = Levels(grid)
    assert levels.sizes == [1, 1, 8, 24]
    rows = grid.from_unit(np.random.default_rng(0).random((5, len(grid))))
    features = levels(rows)
    unit = rows / 1.5
    assert features[:, 0] == pytest.approx(unit[:, :12].mean(axis=1))
    # Levels split the mean square of a group, so that a distance by level is one by gene.
    squares = (unit[:, :12] ** 2).mean(axis=1) + (unit[:, 12:] ** 2).mean(axis=1)
    assert (features**2).sum(axis=1) == pytest.approx(squares)
    alike = levels(np.full((1, len(grid)), 0.6))
    assert alike[0, 2:] == pytest.approx(np.zeros(32))
    assert Levels(Grid(unit_genes(1))).sizes == [1]


def test_genes_count_as_much_together_as_by_level():
    problem = merge_like(layers=4, modules=3, experts=2)
    grid = Grid(problem.genes)
    genes, levels = Genes(grid), Levels(grid)
    assert genes.sizes == [1] * 24
    rows = grid.from_unit(np.random.default_rng(0).random((5, len(grid))))
    assert (genes(rows) ** 2).sum(axis=1) == pytest.approx((levels(rows) ** 2).sum(axis=1))
    alone = Grid([replace(gene, input=f"x{k}") for k, gene in enumerate(unit_genes(3))])
    rows = alone.from_unit(np.random.default_rng(1).random((5, 3)))
    assert np.array_equal(Genes(alone)(rows), Levels(alone)(rows))
    assert Genes(alone).sizes == Levels(alone).sizes


@pytest.mark.parametrize("objectives", [4, 6])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_many_objectives_a_model_tells_the_genes_apart(objectives, seed):
    """Where on a sphere a point lies and how far out: by level all genes of an expert are alike."""
    problem = dtlz2(12, objectives)
    rows = np.round(np.random.default_rng(seed).random((360, 12)), 3)
    known, fresh = [tuple(row) for row in rows[:60].tolist()], rows[60:]
    told = [(genome, problem.outcome(genome)) for genome in known]
    truth = np.array([problem.outcome(genome).values for genome in fresh])
    missed = {}
    for scales in ("chosen", "by_level"):
        proposing = make_optimizer(
            "surrogate",
            problem.genes,
            problem.objectives,
            population=8,
            seed=seed,
            settings=SurrogateSettings(scales=scales),
        ).proposing
        models, features = proposing._look(told).models, proposing._features(fresh)
        found = np.column_stack([model.expect(features) for model in models])
        # Values are scaled by what was told: how much of the variance is explained does not depend on that.
        alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, truth.T, strict=True)]
        missed[scales] = 1.0 - np.mean(np.square(alike))
    assert missed["chosen"] < 0.7 * missed["by_level"]


@pytest.mark.parametrize("kind", ["surrogate", "auto"])
def test_which_length_scales_there_are_depends_on_objectives_and_genes(kind):
    def sizes(genes, objectives, scales="chosen"):
        problem = dtlz2(genes, objectives)
        options = optimizer_settings(kind, {"scales": scales})
        optimizer = make_optimizer(
            kind, problem.genes, problem.objectives, population=8, seed=1, settings=options
        )
        proposing = optimizer.proposing if kind == "surrogate" else optimizer._by_genes
        return proposing._features.sizes

    by_level, by_gene = [1, 12], [1] * 12
    assert sizes(12, 2) == sizes(12, 3) == by_level, "asks are those of earlier versions"
    assert sizes(12, 4) == sizes(12, 3, "by_gene") == by_gene
    assert sizes(12, 4, "by_level") == by_level
    assert sizes(51, 4) == sizes(51, 4, "by_gene") == [1, 51]
    assert sizes(50, 4) == [1] * 50


def test_a_process_predicts_what_scikit_learn_predicts():
    rng = np.random.default_rng(1)
    x, y = rng.random((40, 3)), rng.normal(size=40)
    chosen = Hyperparameters((np.log(0.4), np.log(0.9)), np.log(0.05))
    process = condition(x, [1, 2], y, chosen)
    kernel = ConstantKernel(process.variance, "fixed") * Matern(1.0, "fixed", nu=2.5)
    kernel += WhiteKernel(0.05 * process.variance, "fixed")
    oracle = GaussianProcessRegressor(kernel, optimizer=None)
    scales = np.array([0.4, 0.9, 0.9])
    oracle.fit(x / scales, y - process.mean)
    new = rng.random((7, 3))
    mean, deviation = process.predict(new)
    expected, spread = oracle.predict(new / scales, return_std=True)
    assert mean == pytest.approx(expected + process.mean, abs=1e-5)
    noise = 0.05 * process.variance
    assert deviation == pytest.approx(np.sqrt(spread**2 - noise), abs=1e-4)
    drawn = process.draw(new, rng.normal(size=(20_000, 7)))
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.05)
    assert drawn.std(axis=0) == pytest.approx(deviation, abs=0.05)


def test_length_scales_tell_what_matters():
    rng = np.random.default_rng(2)
    x = rng.random((80, 2))
    y = np.sin(6.0 * x[:, 0]) + 0.01 * rng.normal(size=80)
    found = fit(x, [1, 1], y, 1e-6)
    assert found.scales[0] < found.scales[1] - 1.0
    assert found.noise < np.log(0.02)
    noisy = fit(x, [1, 1], y + rng.normal(size=80), 1e-6)
    assert noisy.noise > np.log(0.2)


def test_a_batch_adds_most_hypervolume_together():
    rng = np.random.default_rng(4)
    front = np.array([[0.1, 0.9], [0.9, 0.1]])
    pool = np.array([[0.5, 0.5], [0.49, 0.52], [0.12, 0.7], [1.2, 0.0], [0.7, 0.12]])
    chosen = greedy(front, np.empty((1, 0, 2)), pool[None], 3, rng)
    expected: list[int] = []
    for _ in range(3):
        known = np.concatenate([front, pool[expected]])
        gains = [hypervolume(np.vstack([known, row])) for row in pool]
        expected.append(int(np.argmax(gains)))
    assert chosen == expected
    pending = greedy(front, pool[None, :1], pool[None], 1, rng)
    assert pending != [0], "what is pending is asked again"


def test_a_gain_is_the_share_of_hypervolume_that_a_batch_adds():
    rng = np.random.default_rng(2)
    front, batch = rng.random((6, 3)), rng.random((2, 4, 3))
    pending = np.repeat(rng.random((1, 2, 3)), 2, axis=0)
    before = hypervolume(np.vstack([front, pending[0]]))
    exact = [hypervolume(np.vstack([front, pending[0], rows])) / before - 1.0 for rows in batch]
    found = np.mean([gain_shares(front, pending, batch, rng) for _ in range(40)], axis=0)
    assert found == pytest.approx(exact, rel=0.1, abs=1e-3)
    none = np.empty((1, 0, 3))
    assert gain_shares(front, none, front[None], rng) == pytest.approx([0.0])
    assert gain_shares(front[:0], none, batch[:1], rng) is None


@pytest.mark.parametrize("focus", [None, (1.0, 1.0), (1.0, 0.2), (1.0, 0.0)])
def test_with_a_focus_a_gain_is_a_share_of_the_hypervolume_near_it(focus):
    """What makes all a tenth larger has the same share anywhere; what lies elsewhere has none near it."""
    front = np.array([[0.1, 0.9], [0.2, 0.6], [0.4, 0.4], [0.6, 0.2], [0.9, 0.1]])
    near = None if focus is None else np.array(focus)

    def share(*rows):
        rng = np.random.default_rng(1)
        (found,) = gain_shares(front, np.empty((1, 0, 2)), np.array([rows]), rng, near)
        return found

    larger = REFERENCE - 1.1 * (REFERENCE - front)
    assert share(*larger) == pytest.approx(1.1**2 - 1.0)
    assert share(*front) == 0.0
    middle, corner = [0.35, 0.35], [0.0, 0.85]
    if focus is None:
        assert min(share(middle), share(corner)) > 0.02
        return
    shares = {"middle": share(middle), "corner": share(corner)}
    here = "middle" if focus == (1.0, 1.0) else "corner"
    for name, found in shares.items():
        assert found > 0.1 if name == here else found < 0.005
    before, now = (near_volume(rows, larger, near) for rows in (front, larger))
    assert now / before == pytest.approx(1.1**2)
    assert near_volume(front[:0], larger, near) == 0.0


def test_near_a_focus_is_where_prefer_picks_also_among_points_that_beat_the_ideal():
    """Of members better than the best expert at everything: the one best at what matters most."""
    front = np.array([[-0.5, -0.1], [-0.3, -0.3], [-0.1, -0.5]])
    for focus, here in (((1.0, 0.1), 0), ((1.0, 1.0), 1), ((0.1, 1.0), 2)):
        weights = np.array(focus)
        assert preferred(front, weights / weights.sum()) == here
        volumes = [
            near_volume(np.delete(front, row, axis=0), front, weights)
            / near_volume(front, front, weights)
            for row in range(3)
        ]
        # Without the point itself most is lost.
        assert int(np.argmin(volumes)) == here


def test_what_a_surrogate_with_a_focus_expects_is_near_it():
    problem, rng = zdt1(2), np.random.default_rng(2)
    told = [(genome, problem.outcome(genome)) for genome in map(tuple, rng.random((24, 2)).tolist())]
    asked = SimpleNamespace(told=told, pending=(), asks_again=True)
    near, aside = np.array([[0.1, 0.0]]), np.array([[0.5, 0.0]])
    gains = {}
    for focus in (None, (0.5, 0.5)):
        surrogate = Surrogate(problem.genes, (), 1, focus, steady=False)
        gains[focus] = [surrogate.expected(asked, points).mean() for points in (near, aside)]
    assert min(gains[None]) > 0.3
    assert gains[0.5, 0.5][0] > 0.3
    assert gains[0.5, 0.5][1] < 0.001


def test_less_and_less_is_expected_of_a_batch_and_what_is_asked_does_not_depend_on_it(monkeypatch):
    problem = merge_like(layers=3)
    made = {"population": 8, "seed": 3, "initial": problem.initial, "settings": QUICK}
    optimizer = make_optimizer("surrogate", problem.genes, problem.objectives, **made)
    gains, asked = [], []
    for _ in range(10):
        batch = optimizer.ask()
        gains.append(optimizer.forecast())
        optimizer.tell([problem.outcome(genome) for genome in batch])
        asked += batch
    assert gains[0] is None, "no model chose the first generation"
    assert all(each.by == "genes" and 0.0 <= each.low <= each.gain <= each.high for each in gains[1:])
    assert gains[-1].gain < 0.5 * gains[1].gain
    monkeypatch.setattr(Surrogate, "_shares", lambda *_: None)
    assert searched(problem, len(asked)) == asked


def test_scale_is_that_of_the_front_and_the_given_and_flat_beyond():
    values = np.array([[0.0, 4.0], [2.0, 0.0], [3.0, 5.0], [1e9, 1e9]])
    keep = np.ones(4, dtype=bool)
    given = np.array([True, True, True, False])
    assert scaled(values, ~keep, keep)[1] == pytest.approx([1.0, 0.0])
    assert scaled(values, given, keep)[1] == pytest.approx([2 / 3, 0.0])
    assert scaled(values, given, keep)[3].max() < 25.0


PROBLEMS = [zdt1(8), zdt2(8), dtlz2(8, 3), merge_like(layers=4)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_it_beats_random_search_with_few_evaluations(problem):
    ours = problem.quality(searched(problem, 48))
    random = problem.quality(searched(problem, 48, "random", None))
    assert ours > random


@pytest.mark.parametrize(("genes", "objectives"), [(1, 2), (30, 2), (2000, 2), (12, 4), (12, 6)])
def test_any_number_of_genes_and_objectives(genes, objectives):
    problem = dtlz2(genes, objectives) if objectives > 2 else zdt1(genes)
    asked = searched(problem, 24)
    assert len(set(asked)) == 24


def test_failures_and_broken_bounds_are_kept_away_from():
    problem = zdt1(4)

    def outcome(genome):
        if genome[1] > 0.6:
            return Failed("nonfinite_weights")
        values = problem.outcome(genome).values
        if genome[2] > 0.7:
            return Raced(8, (0.0, 0.0))
        return Complete(values, (0.0, 0.0), (0.4 - genome[0], 0.0))

    optimizer = make_optimizer(
        "surrogate", problem.genes, problem.objectives, population=8, seed=5, settings=QUICK
    )
    outcomes, asked = [], []
    for _ in range(8):
        batch = optimizer.ask()
        told = [outcome(genome) for genome in batch]
        optimizer.tell(told)
        outcomes += told
        asked += batch
    kept = [isinstance(o, Complete) and o.violations[0] <= 0.0 for o in outcomes]
    assert sum(kept[-32:]) >= 24
    assert sum(isinstance(o, Failed) for o in outcomes[-32:]) <= 3


def test_failures_are_kept_away_from_where_they_begin_at_the_best(monkeypatch):
    """Fewer of them, and a better front, than where nobody models them."""
    problem = zdt1(4)

    def fails(genome):
        return genome[1] < 0.1  # the front lies at 0

    def failures_and_quality(seed):
        optimizer = make_optimizer(
            "surrogate", problem.genes, problem.objectives, population=8, seed=seed, settings=QUICK
        )
        asked = []
        for _ in range(6):
            batch = optimizer.ask()
            told = [Failed("timeout") if fails(g) else problem.outcome(g) for g in batch]
            optimizer.tell(told)
            asked += batch
        kept = [genome for genome in asked if not fails(genome)]
        return sum(map(fails, asked[-32:])), problem.quality(kept)

    ours = np.array([failures_and_quality(seed) for seed in range(2)])
    plain = Surrogate._data

    def without(self, told, known):
        return {name: data for name, data in plain(self, told, known).items() if name != ("failure",)}

    monkeypatch.setattr(Surrogate, "_data", without)
    unaware = np.array([failures_and_quality(seed) for seed in range(2)])
    assert (ours[:, 0] < 0.6 * unaware[:, 0]).all(), (ours, unaware)
    assert ours[:, 1].mean() > unaware[:, 1].mean()


def test_a_raced_candidate_counts_as_worse_than_expected():
    """Its values are not known: it lost its race, and so is no better than the others let expect."""
    problem, rng = zdt1(4), np.random.default_rng(1)
    drawn = [tuple(row) for row in np.round(rng.random((24, 4)), 3).tolist()]
    told = [(genome, problem.outcome(genome)) for genome in drawn[:20]]
    raced = [(genome, Raced(8, (0.0, 0.0))) for genome in drawn[20:]]
    rows = Levels(Grid(problem.genes))(np.array(drawn[20:]))
    expected = [
        Surrogate(problem.genes, (), 1, None, steady=False)._look(results).models[0].expect(rows)
        for results in (told, told + raced)
    ]
    assert (expected[1] > expected[0]).all()


def test_smooth_values_steer():
    """Reported values are all the same: what leads to the front are the smooth ones beside them."""
    problem = zdt1(8)
    silent = replace(
        problem,
        outcome=lambda genome: Complete((0.0, 0.0), (0.0, 0.0), (), problem.outcome(genome).values),
    )
    assert searched(silent, 40) == searched(problem, 40)
    values = np.array([problem.outcome(genome).values for genome in searched(silent, 40)])
    assert values[-16:].mean() < 0.7 * values[:8].mean()


def test_what_is_pending_in_steady_state_is_not_asked_next_to():
    problem = merge_like(layers=3)
    optimizer = make_optimizer(
        "surrogate",
        problem.genes,
        problem.objectives,
        population=8,
        seed=3,
        initial=problem.initial,
        settings=QUICK,
        schedule="steady_state",
    )
    for number in range(16):
        optimizer.tell([problem.outcome(optimizer.ask()[0])], [number])
    pending = np.array([optimizer.ask()[0] for _ in range(6)])
    apart = np.abs(pending[:, None] - pending).mean(axis=2) + np.eye(6)
    assert apart.min() > 0.01


def test_a_point_beside_one_that_is_under_way_is_passed_over():
    """What its twin adds when it is told, it cannot add again."""
    problem, rng = zdt1(2), np.random.default_rng(2)
    told = [(genome, problem.outcome(genome)) for genome in map(tuple, rng.random((24, 2)).tolist())]
    surrogate = Surrogate(problem.genes, (), 1, None, steady=False)
    seen = surrogate._look(told)
    points, twins = np.array([[0.1, 0.0], [0.6, 0.0]]), np.array([[0.105, 0.0], [0.605, 0.0]])

    def chosen(pending):
        asked = SimpleNamespace(rng=np.random.default_rng(3), count=1)
        return surrogate._choose(seen, points, pending, asked)[0]

    first = chosen(np.empty((0, 2)))
    assert chosen(twins[[first]]) == 1 - first


def test_with_a_focus_what_is_far_from_it_is_dominated():
    """Guided dominance: what is far from a preference is beaten by what is near, though not as measured."""
    problem = zdt1(2)
    front = np.array([[0.0, 0.9], [0.3, 0.3], [0.9, 0.0]])
    for focus, near in (((0.5, 0.5), 1), ((0.05, 0.95), 2)):
        surrogate = Surrogate(problem.genes, (), 1, focus, steady=False)
        guided = surrogate._guided(front)
        assert non_dominated(guided).tolist() == [row == near for row in range(3)]
    free = Surrogate(problem.genes, (), 1, None, steady=False)
    assert non_dominated(free._guided(front)).all()


def test_what_is_not_near_counts_less():
    rng = np.random.default_rng(0)
    pool = np.array([[[0.1, 0.6], [0.5, 0.5], [0.6, 0.1]]])
    args = np.empty((0, 2)), pool[:, :0], pool, 1
    (free,) = greedy(*args, rng)
    assert greedy(*args, np.random.default_rng(0), np.ones((1, 3))) == [free]
    for wanted in range(3):
        near = np.full((1, 3), 1e-3)
        near[0, wanted] = 1.0
        assert greedy(*args, rng, near) == [wanted]


def test_a_focus_draws_the_search_to_a_preference():
    """What is asked later is better there than without, and so is the best of all."""
    focus = np.array([0.6, 0.3, 0.1])
    best, late = [], []
    for seed in range(3):
        problem = merge_like(layers=4, seed=seed)
        corners = np.array([problem.outcome(genome).values for genome in problem.initial[:3]])
        found = []
        for wanted in (focus, None):
            asked = searched(problem, 48, focus=wanted)
            values = np.array([problem.outcome(genome).values for genome in asked])
            unit = (values - corners.min(axis=0)) / np.ptp(corners, axis=0)
            found.append(chebyshev(unit, focus / focus.max()))
        near, free = found
        best.append(free.min() - near.min())
        late.append(np.median(free[-24:]) - np.median(near[-24:]))
    assert np.median(best) > 0.0
    assert min(late) > 0.0


@pytest.mark.parametrize("kind", ["nsga2", "random", "cma-es"])
def test_a_kind_without_a_focus_refuses_one(kind):
    with pytest.raises(ConfigError, match=r"E151.*cannot focus; take surrogate, learned-front, auto"):
        searched(zdt1(3), 8, kind=kind, settings=None, focus=(0.5, 0.5))


def test_slopes_of_the_merge_like_problem_are_its_losses_gradients():
    problem = merge_like(layers=3, seed=1)
    point = np.random.default_rng(0).uniform(0.2, 1.2, len(problem.genes))
    weights, items = (0.3, 0.5, 0.0), ((0, 3, 7), (1, 2), (4,))

    def total(genome):
        losses = problem.slope(SlopeRequest(tuple(genome), weights, items)).losses
        return sum(w * loss for w, loss in zip(weights, losses, strict=True))

    steps = 1e-5 * np.eye(len(point))
    differences = [(total(point + step) - total(point - step)) / 2e-5 for step in steps]
    assert problem.slope(SlopeRequest(tuple(point), weights, items)).gradient == pytest.approx(
        differences, rel=1e-5, abs=1e-8
    )
