"""Bootstrap statistics against exact enumeration, closed forms and coverage."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest

from evomerge.front.statistics import (
    hypervolume_interval,
    optimism,
    paired_bootstrap,
    paired_bootstrap_of_mean,
    probability_dominates,
    probability_non_dominated,
)
from evomerge.objectives import pareto
from evomerge.objectives.objective import Scaling

MANY = 40_000


def exact_shares(items, signs, tasks):
    """Share of all equally likely resamples in which each candidate is non-dominated, by loops."""
    names = list(dict.fromkeys(tasks))
    lengths = {name: items[tasks.index(name)].shape[1] for name in names}
    draws = [list(itertools.product(range(lengths[n]), repeat=lengths[n])) for n in names]
    counts = np.zeros(len(items[0]))
    lists = [array.tolist() for array in items]  # numpy would take ten times as long for so little
    total = 0
    for chosen in itertools.product(*draws):
        by_task = dict(zip(names, chosen, strict=True))
        columns = [
            [sign * sum(row[i] for i in by_task[task]) for row in rows]
            for rows, sign, task in zip(lists, signs, tasks, strict=True)
        ]
        means = list(zip(*columns, strict=True))
        total += 1
        for index, row in enumerate(means):
            counts[index] += not any(
                other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in means
            )
    return counts / total


@pytest.mark.parametrize("tasks", [["a", "b"], ["a", "a"]])
def test_probability_non_dominated_is_that_of_all_resamples(tasks):
    rng = np.random.default_rng(3)
    items = [rng.integers(0, 2, size=(4, 4)).astype(float) for _ in range(2)]
    items[1][2] = items[1][0]
    signs = [-1.0, 1.0]
    exact = exact_shares(items, signs, tasks)
    found = probability_non_dominated(items, signs, resamples=MANY, seed=1, tasks=tasks)
    assert np.abs(found - exact).max() < 4 * np.sqrt(0.25 / MANY)
    assert np.ptp(exact) > 0.2


def test_objectives_of_one_task_share_their_items_and_others_do_not():
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 2, size=(2, 40)).astype(float)
    signs = [-1.0, -1.0]
    same, own = (
        probability_dominates(
            [hits[0], hits[0]], [hits[1], hits[1]], signs, resamples=4000, tasks=tasks
        )
        for tasks in (["a", "a"], None)
    )
    single = probability_dominates([hits[0]], [hits[1]], [-1.0], resamples=4000)
    assert same == pytest.approx(single, abs=0.04)
    assert own == pytest.approx(single**2, abs=0.08)


def test_certain_cases_are_certain():
    rng = np.random.default_rng(0)
    low = rng.random((1, 50))
    items = [np.concatenate([low, low + 1, low])] * 2
    assert probability_non_dominated(items, [-1, -1]).tolist() == [0.0, 1.0, 0.0]
    assert probability_non_dominated(items, [1, 1]).tolist() == [1.0, 0.0, 1.0]
    assert probability_non_dominated(items, [1, -1]).tolist() == [1.0, 1.0, 1.0]
    assert probability_dominates([low[0] + 1], [low[0]], [-1]) == 1.0
    assert probability_dominates([low[0]], [low[0]], [-1]) == 0.0
    assert probability_non_dominated([np.empty((0, 3))], [1]).tolist() == []


def test_equal_results_never_dominate_each_other_by_rounding():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(3, 97)) / 3, 13, axis=0)[rng.permutation(39)]
    other = np.repeat(rng.normal(size=(1, 31)), 39, axis=0)
    found = probability_non_dominated([rows, other], [-1, 1], resamples=500)
    _, group = np.unique(rows, axis=0, return_inverse=True)
    for label in range(3):
        assert len(set(found[group.ravel() == label])) == 1
    assert sum(found[group.ravel() == label][0] for label in range(3)) == pytest.approx(1.0)


def test_a_seed_decides_everything_and_memory_stays_bounded(capsys):
    rng = np.random.default_rng(0)
    items = [(rng.random((40, 300)) < 0.5).astype(float) for _ in range(3)]
    began = time.perf_counter()
    found = probability_non_dominated(items, [-1, -1, -1], seed=5)
    seconds = time.perf_counter() - began
    assert (found == probability_non_dominated(items, [-1, -1, -1], seed=5)).all()
    assert (found != probability_non_dominated(items, [-1, -1, -1], seed=6)).any()
    tracemalloc.start()
    probability_non_dominated(items, [-1, -1, -1], resamples=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    with capsys.disabled():
        print(f"\nprobability_non_dominated: 40 x 3 x 300 x 2000 in {seconds:.2f} s", end="; ")
        print(f"peak {peak / 1e6:.0f} MB")


def test_paired_bootstrap_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(1)
    a = rng.normal(0.3, 1.0, size=400)
    b = rng.normal(0.2, 1.0, size=400) + 5 * a
    found = paired_bootstrap(a, b, resamples=20_000, seed=2)
    difference = a - b
    error = difference.std() / np.sqrt(400)
    assert found.difference == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.08 * error)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.08 * error)
    swapped = paired_bootstrap(b, a, resamples=20_000, seed=2)
    assert swapped.probability_greater == pytest.approx(1 - found.probability_greater)
    equal = paired_bootstrap(a, a)
    assert (equal.difference, equal.low, equal.high) == (0.0, 0.0, 0.0)
    assert (equal.probability_greater, equal.probability_equal) == (0.0, 1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(300):
        a, b = (rng.random((2, 150)) < [[0.6], [0.5]]).astype(float)
        found = paired_bootstrap(a, b, resamples=400, seed=trial)
        covered += found.low <= 0.1 <= found.high
    assert 0.90 < covered / 300 < 0.985


def test_the_mean_over_tasks_weighs_tasks_alike():
    rng = np.random.default_rng(5)
    a = [rng.random(30), rng.random(300)]
    b = [rng.random(30), rng.random(300)]
    found = paired_bootstrap_of_mean(a, b, resamples=20_000)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert found.difference == pytest.approx(np.mean([d.mean() for d in differences]))
    error = 0.5 * np.sqrt(sum(d.var() / len(d) for d in differences))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_hypervolume_interval():
    rng = np.random.default_rng(6)
    items = [(rng.random((5, 200)) < 0.5).astype(float) for _ in range(2)]
    scaling = Scaling((-0.7, -0.7), (-0.3, -0.3))
    found = hypervolume_interval(items, [-1, -1], scaling, resamples=500, seed=1)
    means = -np.stack([array.mean(axis=1) for array in items], axis=1)
    assert found.value == pareto.hypervolume(scaling.scale(means))
    volumes = []
    for _ in range(500):
        drawn = [array[:, rng.integers(200, size=200)].mean(axis=1) for array in items]
        volumes.append(pareto.hypervolume(scaling.scale(-np.stack(drawn, axis=1))))
    low, high = np.quantile(volumes, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.05)


def test_optimism_sees_the_winners_curse_and_only_that():
    rng = np.random.default_rng(7)
    truth = 0.5
    search = (rng.random((200, 100)) < truth).astype(float)
    held_out = (rng.random((200, 1000)) < truth).astype(float)
    loss_search, loss_held_out = 1 - search, 1 - held_out
    best = np.argsort(-search.mean(axis=1))[:10]
    winners = optimism(
        [search[best], loss_search[best]], [held_out[best], loss_held_out[best]], [-1, 1]
    )
    for interval in (*winners.objectives, winners.mean):
        assert interval.value == pytest.approx(search[best].mean() - held_out[best].mean())
        assert 0.05 < interval.low < interval.value < interval.high
    everyone = optimism([search], [held_out], [-1])
    assert everyone.mean.low < 0 < everyone.mean.high
    assert everyone.mean == everyone.objectives[0]


def test_wrong_arguments_are_refused_in_words():
    good = np.ones((3, 4))
    with pytest.raises(ValueError, match="2 arrays of results for 1 signs"):
        probability_non_dominated([good, good], [1])
    with pytest.raises(ValueError, match=r"expected results \[3 candidates, items >= 1\]"):
        probability_non_dominated([good, good[:2]], [1, 1])
    with pytest.raises(ValueError, match="results must be finite"):
        probability_non_dominated([good * np.nan], [1])
    with pytest.raises(ValueError, match="needs at least one resample, found 0"):
        probability_non_dominated([good], [1], resamples=0)
    with pytest.raises(ValueError, match="objectives of task 't' have different numbers of items"):
        probability_non_dominated([good, good[:, :2]], [1, 1], tasks=["t", "t"])
    with pytest.raises(ValueError, match="1 tasks for 2 objectives"):
        probability_non_dominated([good, good], [1, 1], tasks=["t"])
    with pytest.raises(ValueError, match="paired results need equal lengths"):
        paired_bootstrap(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="level of an interval lies between 0 and 1"):
        paired_bootstrap(np.ones(3), np.ones(3), level=95)
    with pytest.raises(ValueError, match="need the same members"):
        optimism([good], [good[:2]], [1])


def test_items_of_the_two_splits_are_drawn_independently():
    """Equal results on both splits: the difference is 0, and as uncertain as that of two samples."""
    rows = (np.random.default_rng(8).random((1, 400)) < 0.5).astype(float)
    found = optimism([rows], [rows], [-1]).mean
    error = np.sqrt(2 * rows.var() / 400)
    assert found.value == 0.0
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
