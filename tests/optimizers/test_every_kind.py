"""Every kind of optimizer on problems of any size, with all that can happen to a candidate."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers.builtin import KINDS
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.optimizer import AdoptingOptimizer
from evomerge.testing.problems import minimised, unit_genes
from tests.optimizers.few_points import few_points  # noqa: F401

pytestmark = pytest.mark.usefixtures("few_points")

QUICK = {
    "surrogate": {"start": 4, "generations": 1, "inner_population": 8},
    "auto": {"generations": 1, "inner_population": 8},
    "mmmo": {"start": 4},
    "qlognehvi": {"start": 6, "samples": 2, "restarts": 1, "iterations": 1},
}
MOST_GENES = {"optuna": 168, "qlognehvi": 24}
"""Of kinds that take seconds for each candidate of more; Optuna's have one ask of 2,000 below."""

OBJECTIVES = {1: (2, 6), 24: (2, 3, 6), 2_000: (3,)}
"""How many there are, by the number of genes."""

POPULATION, ASKS = 6, 3
FEWER = {"qlognehvi": (1, 6)}
"""Of the first six, four have values: the second batch is a model's, the third knows what became of it.

Fewer where each point costs half a second; of its first six, four have values as well."""


def outcome(number, genome, objectives):
    """Values in conflict, a bound that some break, and failures and races among them."""
    if number % 7 == 3:
        return Failed("timeout")
    row = np.array(genome)
    values = tuple(
        float(np.mean((row - aim) ** 2)) for aim in np.linspace(0.1, 0.9, objectives).tolist()
    )
    if number % 7 == 5:
        return Raced(8, values)
    return Complete(values, (0.01,) * objectives, (float(row[0]) - 0.6,))


@pytest.mark.parametrize("genes", OBJECTIVES)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"hm3"}))
def test_any_number_of_genes_and_objectives_whatever_becomes_of_candidates(kind, genes):
    searched = unit_genes(min(genes, MOST_GENES.get(kind, genes)))
    population, asks = FEWER.get(kind, (POPULATION, ASKS))
    for objectives in OBJECTIVES[genes]:
        optimizer = make_optimizer(
            kind,
            searched,
            minimised(objectives),
            population=population,
            seed=objectives,
            initial=[(1.0,) * len(searched), (0.5,) * len(searched)],
            settings=optimizer_settings(kind, QUICK.get(kind, {})),
        )
        asked = []
        for _ in range(asks):
            batch = optimizer.ask()
            assert len(batch) >= population
            numbers = range(len(asked), len(asked) + len(batch))
            optimizer.tell(
                [outcome(n, genome, objectives) for n, genome in zip(numbers, batch, strict=True)]
            )
            asked += batch
        assert len(set(asked)) == len(asked)
        assert all(
            gene.low <= value <= gene.high and value == gene.snap(value)
            for genome in asked
            for gene, value in zip(searched, genome, strict=True)
        )


@pytest.mark.parametrize("sampler", ["tpe", "nsga3"])
def test_optuna_asks_for_a_new_point_of_many_genes(sampler):
    """One, since TPE takes seconds for it; after enough outcomes for its model and a whole generation."""
    genes, rng = unit_genes(2_000), np.random.default_rng(1)
    optimizer = make_optimizer(
        "optuna",
        genes,
        minimised(3),
        population=4,
        seed=1,
        schedule="steady_state",
        settings=optimizer_settings("optuna", {"sampler": sampler}),
    )
    assert isinstance(optimizer, AdoptingOptimizer)
    told = [tuple(row) for row in np.round(rng.random((14, len(genes))), 3).tolist()]
    for number, genome in enumerate(told):
        optimizer.adopt([genome], [None])
        optimizer.tell([outcome(number, genome, 3)], [number])
    (asked,) = optimizer.ask()
    assert asked not in told
    assert all(
        gene.low <= value <= gene.high and value == gene.snap(value)
        for gene, value in zip(genes, asked, strict=True)
    )
    assert len(set(asked)) > 500, "it is no constant"


@pytest.mark.parametrize("steady", [False, True], ids=["generational", "steady_state"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"hm3"}))
def test_what_is_known_is_asked_after_the_starts_and_before_anything_else(kind, steady):
    genes, rng = unit_genes(4), np.random.default_rng(1)
    initial = [(1.0,) * 4, (0.5,) * 4]
    known = [tuple(row) for row in np.round(rng.random((9, 4)), 3).tolist()]
    optimizer = make_optimizer(
        kind,
        genes,
        minimised(2),
        population=6,
        seed=1,
        initial=initial,
        known=known,
        schedule="steady_state" if steady else "generational",
        settings=optimizer_settings(kind, QUICK.get(kind, {})),
    )
    asked = []
    while len(asked) < len(initial) + len(known):
        batch = optimizer.ask()
        optimizer.tell([outcome(0, genome, 2) for genome in batch], [len(asked)] if steady else None)
        asked += batch
    assert asked == initial + known
