"""Operators do what they are for: how far children spread, what they reach, who becomes a parent.

Every test draws thousands of times from a fixed seed and compares shares with those that follow from the
operator's definition; margins are five standard errors or more.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from evomerge.objectives.objective import Complete
from evomerge.optimizers import structured
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.nsga2 import Nsga2
from evomerge.optimizers.settings import Nsga2Settings
from evomerge.optimizers.steady_nsga2 import _Members
from evomerge.optimizers.variation import Variation
from evomerge.search_space import Gene

EXPERTS, LAYERS, DRAWS = 3, 6, 2000
LATER = 100
"""A generation after the global ones."""

GRID = Grid(
    tuple(
        Gene(f"weight.{e}.layers.{i}", -0.5, 2.0, 1e-3, "weight", f"e{e}", (f"layers.{i}.mlp",))
        for e in range(EXPERTS)
        for i in range(LAYERS)
    )
)
FIRST, SECOND = np.repeat([0.1, 0.2, 0.3], LAYERS), np.repeat([0.9, 1.2, 0.7], LAYERS)


def by_expert(genomes: np.ndarray) -> np.ndarray:
    """[..., genes] to [..., experts, layers]."""
    return genomes.reshape(*genomes.shape[:-1], EXPERTS, LAYERS)


def places(child: np.ndarray) -> np.ndarray:
    """Where children of `FIRST` and `SECOND` stand between them, gene by gene: 0 is `FIRST`, 1 `SECOND`."""
    return by_expert((child - FIRST) / (SECOND - FIRST))


def is_share(found: float, expected: float, of: int) -> bool:
    """Whether a share among `of` draws is what chance makes of the expected one."""
    return abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / of) + 1e-12


def blends() -> np.ndarray:
    rng = np.random.default_rng(0)
    children = [structured.cross(GRID, FIRST, SECOND, "blend", rng) for _ in range(DRAWS)]
    return np.stack([np.stack([places(child) for child in pair]) for pair in children])


def test_blends_reach_the_whole_segment_and_a_quarter_beyond_each_end_evenly() -> None:
    step = blends()
    first, second = step[:, 0, :, 0], step[:, 1, :, 0]
    assert np.allclose(step, step[..., :1]), "one step for all genes of an expert"
    assert np.allclose(first + second, 1.0), "the other child is the mirror image"
    assert -0.25 <= first.min() < -0.245
    assert 1.245 < first.max() <= 1.25
    for column in first.T:
        shares = np.histogram(column, bins=15, range=(-0.25, 1.25))[0] / DRAWS
        assert all(is_share(share, 1 / 15, DRAWS) for share in shares)
    # A place of its own for each expert: no two of them go together.
    correlation = np.corrcoef(first.T)[np.triu_indices(EXPERTS, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(DRAWS)


def test_swaps_reach_every_set_of_experts_and_every_range_of_layers() -> None:
    rng = np.random.default_rng(0)
    taken: dict[str, Counter[tuple[bool, ...]]] = {"experts": Counter(), "layers": Counter()}
    for kind, found in taken.items():
        pairs = [structured.cross(GRID, FIRST, SECOND, kind, rng) for _ in range(DRAWS)]
        step = places(np.array(pairs))
        assert np.allclose(step.sum(axis=1), 1.0)
        swapped = np.isclose(step[:, 0], 1.0)
        assert (swapped | np.isclose(step[:, 0], 0.0)).all()
        along = 2 if kind == "experts" else 1
        assert (swapped == np.take(swapped, [0], axis=along)).all()
        found.update(map(tuple, np.take(swapped, 0, axis=along).tolist()))
    wanted = set(itertools.product((False, True), repeat=EXPERTS)) - {(False,) * 3, (True,) * 3}
    assert set(taken["experts"]) == wanted
    ranges = {
        tuple(start <= place < start + length for place in range(LAYERS)): length
        for length in range(1, LAYERS)
        for start in range(LAYERS - length + 1)
    }
    assert set(taken["layers"]) == set(ranges)
    for pattern, length in ranges.items():
        expected = 1 / (LAYERS - 1) / (LAYERS - length + 1)
        assert is_share(taken["layers"][pattern] / DRAWS, expected, DRAWS)


def crossing(child: np.ndarray) -> str:
    """Which crossover made a child of `FIRST` and `SECOND`."""
    step = places(child)
    swapped = np.isclose(step, 1.0)
    if (swapped | np.isclose(step, 0.0)).all():
        if (swapped == swapped[:, :1]).all() and not (swapped == swapped[:1]).all():
            return "experts"
        return "layers" if (swapped == swapped[:1]).all() and swapped.any() else "genes"
    return "blend" if np.allclose(step, step[:, :1]) else "genes"


@pytest.mark.parametrize("generation", [0, LATER])
def test_couples_are_crossed_by_each_operator_as_often_as_stated(generation: int) -> None:
    parents = np.stack([np.tile(FIRST, (DRAWS, 1)), np.tile(SECOND, (DRAWS, 1))])
    variation = Variation(GRID, Nsga2Settings())
    children = variation.cross(parents, generation, np.random.default_rng(0))
    kinds = Counter(map(crossing, children[0]))
    if generation == 0:
        expected = dict.fromkeys(structured.GLOBAL_CROSSOVERS, 0.5)
    else:
        expected = dict(zip(structured.CROSSOVERS, structured.CROSSOVER_WEIGHTS, strict=True))
    assert set(kinds) == set(expected)
    assert all(is_share(kinds[kind] / DRAWS, share, DRAWS) for kind, share in expected.items())


def test_sbx_moves_half_of_the_genes_about_the_parents_and_less_with_a_larger_index() -> None:
    """Deb and Agrawal (1995): the children's mean is the parents', and they are nearer to them by eta."""
    parents = np.stack([np.tile(FIRST, (DRAWS, 1)), np.tile(SECOND, (DRAWS, 1))])
    spread = []
    for eta in (2.0, 15.0, 90.0):
        variation = Variation(GRID, Nsga2Settings(operators="standard", eta_crossover=eta))
        children = variation.cross(parents, LATER, np.random.default_rng(0))
        assert np.allclose(children.mean(axis=(0, 1)), (FIRST + SECOND) / 2, atol=0.02)
        step = np.sort((children - FIRST) / (SECOND - FIRST), axis=0)
        moved = ~np.isclose(step[0], 0.0, atol=1e-9)
        assert is_share(moved.mean(), 0.5, moved.size)
        spread.append(np.abs(step[0][moved]).mean())
    assert spread[0] > 1.5 * spread[1] > 1.5 * 1.5 * spread[2] > 0.0


@pytest.mark.parametrize("kind", ["group", "layers"])
def test_shifts_are_normal_with_the_stated_deviation(kind: str) -> None:
    rng = np.random.default_rng(0)
    steps, experts = [], Counter[int]()
    for _ in range(DRAWS):
        change = by_expert(structured.mutate(GRID, FIRST, kind, rng) - FIRST)
        moved = np.abs(change) > 0.0
        (expert,) = np.flatnonzero(moved.any(axis=1))
        experts[int(expert)] += 1
        assert np.allclose(change[moved], change[moved][0])
        steps.append(change[moved][0] / 2.5)
    assert all(is_share(experts[e] / DRAWS, 1 / EXPERTS, DRAWS) for e in range(EXPERTS))
    assert stats.kstest(steps, stats.norm(0.0, structured.SHIFT).cdf).pvalue > 1e-3


def test_levelling_keeps_the_mean_of_an_expert() -> None:
    rng = np.random.default_rng(0)
    genome = rng.uniform(0.0, 1.5, size=len(GRID))
    for _ in range(30):
        child = structured.mutate(GRID, genome, "level", rng)
        assert np.allclose(by_expert(child).mean(axis=1), by_expert(genome).mean(axis=1))
        (expert,) = np.flatnonzero((by_expert(child) != by_expert(genome)).any(axis=1))
        assert np.ptp(by_expert(child)[expert]) == 0.0


def mutation(change: np.ndarray) -> str:
    """Which mutation made a change of a genome that is no expert's mean: [experts, layers]."""
    moved = np.abs(change) > 1e-12
    if not moved.any():
        return "none"
    rows = moved.any(axis=1)
    row = change[np.flatnonzero(rows)[0]]
    if rows.sum() == 1 and moved.sum() == LAYERS:
        return "group" if np.ptp(row) < 1e-9 else "level"
    return "genes or layers"


@pytest.mark.parametrize("generation", [0, LATER])
def test_children_are_mutated_by_each_operator_as_often_as_stated(generation: int) -> None:
    # Near the middle of the range, so that bounds cut no shift short.
    genome = np.random.default_rng(1).uniform(0.74, 0.76, size=len(GRID))
    variation = Variation(GRID, Nsga2Settings())
    mutants = variation.mutate(np.tile(genome, (DRAWS, 1)), generation, np.random.default_rng(0))
    kinds = Counter(mutation(change) for change in by_expert(mutants - genome))
    if generation == 0:
        assert set(kinds) == {"group"}
        return
    stated = dict(zip(structured.MUTATIONS, structured.MUTATION_WEIGHTS, strict=True))
    # Polynomial mutation leaves a genome alone where it takes none of its genes.
    untouched = stated["genes"] * (1 - 1 / len(GRID)) ** len(GRID)
    for kind in ("group", "level"):
        assert is_share(kinds[kind] / DRAWS, stated[kind], DRAWS)
    assert is_share(kinds["none"] / DRAWS, stated["none"] + untouched, DRAWS)


def test_polynomial_mutation_takes_one_gene_in_n_and_steps_less_with_a_larger_index() -> None:
    genome = np.full(len(GRID), 0.75)  # the middle of the range
    sizes = []
    for eta in (15.0, 90.0):
        variation = Variation(GRID, Nsga2Settings(operators="standard", eta_mutation=eta))
        change = variation.mutate(np.tile(genome, (DRAWS, 1)), LATER, np.random.default_rng(0)) - genome
        moved = change != 0.0
        assert is_share(moved.mean(), 1 / len(GRID), moved.size)
        steps = change[moved]
        assert is_share((steps > 0.0).mean(), 0.5, len(steps))
        sizes.append(np.abs(steps).mean())
        # Deb and Goyal (1996): |step| / range has the mean 1 / (eta + 2) where steps do not see the bounds.
        assert sizes[-1] / 2.5 == pytest.approx(1 / (eta + 2), rel=0.1)
    assert sizes[0] > sizes[1]


def test_mutants_stay_within_the_bounds_wherever_their_parents_are() -> None:
    rng = np.random.default_rng(0)
    for settings in (Nsga2Settings(), Nsga2Settings(operators="standard")):
        outside = rng.uniform(-2.0, 4.0, size=(DRAWS, len(GRID)))
        mutants = Variation(GRID, settings).mutate(outside, LATER, rng)
        assert (mutants >= GRID.low).all()
        assert (mutants <= GRID.high).all()
        assert (np.isclose(mutants, np.clip(outside, GRID.low, GRID.high)).mean()) > 0.5


MEMBERS = 8


def test_parents_are_winners_of_binary_tournaments() -> None:
    """Of members in a total order, number i of n (0 the best) wins 2 (n - 1 - i) / (n (n - 1)) of them."""
    members = _Members(MEMBERS, 2)
    for number in range(MEMBERS):
        members.add(number, np.array([float(number)]), (float(number), float(number)), 0.0)
    rng = np.random.default_rng(0)
    couples = [members.couple(rng)[:, 0].astype(int).tolist() for _ in range(DRAWS)]
    assert all(one != two for one, two in couples)
    first = Counter(one for one, _ in couples)
    for number in range(MEMBERS):
        expected = 2 * (MEMBERS - 1 - number) / (MEMBERS * (MEMBERS - 1))
        assert is_share(first[number] / DRAWS, expected, DRAWS)
    # The second may be the loser of a tournament whose winner is taken.
    second = Counter(two for _, two in couples)
    assert second[1] > second[MEMBERS - 2] > second[MEMBERS - 1] > 0


def test_of_one_front_the_least_crowded_become_parents() -> None:
    members = _Members(MEMBERS, 2)
    places = [0.0, 1.0, 1.1, 1.2, 1.3, 1.4, 5.0, 9.0]
    for number, place in enumerate(places):
        members.add(number, np.array([float(number)]), (place, -place), 0.0)
    rng = np.random.default_rng(0)
    first = Counter(int(members.couple(rng)[0, 0]) for _ in range(DRAWS))
    pairs = MEMBERS * (MEMBERS - 1) / 2
    # The two ends tie at infinity and win against all others; then come 5.0 and 1.4.
    for number, won in {0: 6.5, 7: 6.5, 6: 5, 5: 4}.items():
        assert is_share(first[number] / DRAWS, won / pairs, DRAWS)


def test_generational_parents_are_winners_too() -> None:
    genes = tuple(Gene(f"x{i}", 0.0, 1.0, 1e-3, "weight", f"x{i}", ("embed",)) for i in range(2))
    initial = [(0.1 * i, 0.5) for i in range(MEMBERS)]
    optimizer = Nsga2(genes, 2, MEMBERS, seed=0, initial=initial)
    batch = optimizer.ask()
    optimizer.tell([Complete((float(i), float(i)), (0.0, 0.0)) for i in range(len(batch))])
    algorithm = optimizer._algorithm
    rng = np.random.default_rng(0)
    chosen = Counter[int]()
    for _ in range(DRAWS // MEMBERS):
        couples = algorithm.mating.selection.do(
            algorithm.problem, algorithm.pop, MEMBERS // 2, 2, algorithm=algorithm, random_state=rng
        )
        for parent in (member for couple in couples for member in couple):
            chosen[int(parent.get("F")[0])] += 1
    total = sum(chosen.values())
    for number in range(MEMBERS):
        expected = 2 * (MEMBERS - 1 - number) / (MEMBERS * (MEMBERS - 1))
        assert chosen[number] / total == pytest.approx(expected, abs=0.02)
