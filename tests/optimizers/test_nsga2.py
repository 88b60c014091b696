"""What is NSGA-II's own: it beats random search, selects rightly, and keeps its population clean."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed, Objective, Raced
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers import structured
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.nsga2 import Nsga2
from evomerge.search_space import Gene
from evomerge.testing.optimizers import example_genes, example_outcome

EXPERTS = ("math", "code", "text")


def layer_genes(layers):
    return tuple(
        Gene(f"weight.{e}.layers.{i}", 0.0, 1.5, 1e-3, "weight", e, (f"layers.{i}.mlp",))
        for e in EXPERTS
        for i in range(layers)
    )


def zdt1(genome):
    """Zitzler, Deb, Thiele (2000), test function T1 with the genes' range mapped to [0, 1]."""
    x = np.array(genome) / 1.5
    g = 1 + 9 * x[1:].mean()
    return (float(x[0]), float(g * (1 - np.sqrt(x[0] / g))))


def merge_surrogate(layers, seed):
    """Loss of three tasks: an expert helps its own task layer by layer and hurts the others."""
    rng = np.random.default_rng(seed)
    helps = rng.dirichlet(np.full(layers, 0.8), size=3) * layers
    hurts = rng.gamma(1.0, 1.0, size=(3, 3, layers)) * (1 - np.eye(3))[:, :, None]

    def losses(genome):
        weight = np.array(genome).reshape(3, layers)
        own = (helps * 0.8 * np.abs(1 - weight) ** 1.5).mean(axis=1)
        others = 0.4 * (hurts * weight[None] ** 2).sum(axis=1).mean(axis=1)
        return tuple((1 - np.exp(-1.6 * (own + others))).tolist())

    return losses


def volume_after(kind, options, genes, objective, count, evaluations, seed, initial, reference):
    names = [Objective(f"task{i}.loss", "minimize") for i in range(count)]
    optimizer = make_optimizer(
        kind,
        genes,
        names,
        population=20,
        seed=seed,
        initial=initial,
        settings=optimizer_settings(kind, options),
    )
    values = []
    while len(values) < evaluations:
        batch = optimizer.ask()
        told = [objective(genome) for genome in batch]
        values += told
        optimizer.tell([Complete(v, (0.0,) * count) for v in told])
    return hypervolume(np.array(values[:evaluations]) / reference, 1.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_beats_random_search_on_zdt1(seed):
    genes = layer_genes(4)
    ours, theirs = (
        volume_after(kind, {}, genes, zdt1, 2, 400, seed, (), np.array([1.0, 6.0]))
        for kind in ("nsga2", "random")
    )
    assert ours > 1.1 * theirs


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_beats_both_random_searches_and_its_plain_form_on_a_merge_surrogate(seed):
    layers = 8
    genes = layer_genes(layers)
    corners = [np.zeros(3), *np.eye(3), np.full(3, 1 / 3)]
    initial = [tuple(np.repeat(corner, layers).tolist()) for corner in corners]
    plain = {"start": "random", "operators": "standard"}
    ours, flat, spread, standard = (
        volume_after(
            kind, options, genes, merge_surrogate(layers, seed), 3, 200, seed, initial, np.ones(3)
        )
        for kind, options in (
            ("nsga2", {}),
            ("random", {}),
            ("random", {"structure": "global"}),
            ("nsga2", plain),
        )
    )
    assert ours > spread > flat
    assert ours > standard


def members(optimizer):
    return {tuple(row) for row in optimizer._algorithm.pop.get("X").tolist()}


def test_failed_candidates_never_become_parents_and_raced_ones_only_while_others_are_too_few():
    optimizer = Nsga2(example_genes(), 2, 8, seed=1)
    failed, raced, complete = set(), set(), 0
    for generation in range(12):
        batch = optimizer.ask()
        outcomes = []
        for index, genome in enumerate(batch):
            if generation < 2 or index % 3 == 0:
                (raced if index % 2 else failed).add(genome)
                lost = Raced(4, (-100.0, -100.0))
                outcomes.append(lost if index % 2 else Failed("nonfinite_weights"))
            else:
                complete += 1
                outcomes.append(example_outcome(genome))
        optimizer.tell(outcomes)
        assert not members(optimizer) & failed
        assert len(members(optimizer) & raced) == max(0, min(8, complete + len(raced)) - complete)
    assert complete > 8
    values = optimizer._algorithm.pop.get("F")
    assert len(values) == 8
    assert np.isfinite(values).all()
    assert values.min() > -1


def test_a_candidate_that_breaks_constraints_gives_way_to_any_that_keeps_them():
    optimizer = Nsga2(example_genes(), 2, 6, seed=1)
    kept = set()
    for _ in range(4):
        batch = optimizer.ask()
        outcomes = []
        for index, genome in enumerate(batch):
            if index < 2:
                kept.add(genome)
                outcomes.append(Complete((5.0 + index, 5.0 - index), (0.0, 0.0), (-1.0,)))
            else:
                outcomes.append(Complete((0.1, 0.1), (0.0, 0.0), (0.5 + index, -3.0)))
        optimizer.tell(outcomes)
    assert members(optimizer) <= kept
    assert len(members(optimizer)) == 6


def test_survivors_are_the_best_ranks_and_the_extremes_of_the_last():
    genes = tuple(Gene(f"x{i}", 0.0, 1.0, 1e-3, "weight", f"x{i}", ("embed",)) for i in range(2))
    initial = [(0.01 * i, 0.5) for i in range(12)]
    optimizer = Nsga2(genes, 2, 5, seed=0, initial=initial)
    batch = optimizer.ask()
    # Two on the first front; ten on the second, of which the extremes and one other have room.
    values = [(0.0, 1.0), (1.0, 0.0), *((1.0 + i, 11.0 - i) for i in range(10))]
    optimizer.tell([Complete(value, (0.0, 0.0)) for value in values])
    survivors = members(optimizer)
    assert len(survivors) == 5
    assert {batch[0], batch[1], batch[2], batch[11]} <= survivors


def test_the_grid_is_that_of_the_genes():
    genes = (
        Gene("a", -0.3, 1.5, 1e-3, "weight", "a", ("embed",)),
        Gene("b", 0.05, 1.0, 0.07, "density", "*", ("layers.0.mlp",)),
        Gene("c", 0.0, 1.0, 1e-7, "weight", "a", ("head",)),
    )
    grid = Grid(genes)
    values = np.random.default_rng(0).uniform(-1.0, 2.0, size=(500, 3))
    snapped = grid.snap(values)
    for row, found in zip(values.tolist(), snapped.tolist(), strict=True):
        assert found == [gene.snap(value) for gene, value in zip(genes, row, strict=True)]
    assert (grid.snap(snapped) == snapped).all()
    assert grid.all_points() is None


def test_the_start_is_mostly_one_value_per_expert():
    genes = layer_genes(6)
    grid = Grid(genes)
    given = np.stack([np.repeat(corner, 6) for corner in np.eye(3)])
    points = structured.start_points(grid, given, 20, np.random.default_rng(0))
    assert points.shape == (20, 18)
    assert (grid.snap(points) == points).all()
    flat = (points.reshape(20, 3, 6) == points.reshape(20, 3, 6)[:, :, :1]).all(axis=(1, 2))
    assert flat.sum() == 13


@pytest.mark.parametrize("kind", ["layers", "experts", "blend"])
def test_block_crossovers_keep_experts_with_one_value_together(kind):
    grid = Grid(layer_genes(6))
    rng = np.random.default_rng(1)
    first, second = np.repeat([0.1, 0.2, 0.3], 6), np.repeat([0.6, 0.7, 0.8], 6)
    for _ in range(50):
        children = structured.cross(grid, first, second, kind, rng)
        assert np.allclose(children[0] + children[1], first + second)
        for child in children:
            by_expert = child.reshape(3, 6)
            if kind == "layers":
                taken = np.isclose(by_expert, second.reshape(3, 6))
                assert (taken == taken[0]).all()
                assert 1 <= taken[0].sum() <= 5
                assert np.abs(np.diff(taken[0].astype(int))).sum() <= 2
            else:
                assert np.ptp(by_expert, axis=1).max() < 1e-12


def test_block_mutations_move_one_group_by_one_number():
    grid = Grid(layer_genes(6))
    rng = np.random.default_rng(1)
    genome = rng.uniform(0, 1.5, size=18)
    for kind in ("group", "layers", "level"):
        for _ in range(30):
            change = (structured.mutate(grid, genome, kind, rng) - genome).reshape(3, 6)
            touched = np.abs(change) > 1e-12
            assert touched.any(axis=1).sum() == 1
            if kind != "level":
                assert np.ptp(change[touched]) < 1e-12
            if kind == "group":
                assert touched.sum() == 6
