"""CMA-ES on weighted sums: weight vectors in turn, from the uniform average."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers.cma_es import weight_vectors
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.settings import CmaEsSettings
from evomerge.testing.problems import merge_like, zdt1


def optimizer(problem, weights, schedule="generational", population=8):
    return make_optimizer(
        "cma-es",
        problem.genes,
        problem.objectives,
        population=population,
        seed=2,
        settings=CmaEsSettings(weights),
        schedule=schedule,
    )


def test_weight_vectors():
    found = weight_vectors(6, 3, np.random.default_rng(0))
    assert np.sum(found, axis=1) == pytest.approx(np.ones(6))
    assert found[0] == pytest.approx([1 / 3] * 3)
    assert [int(np.argmax(row)) for row in found[1:4]] == [0, 1, 2]
    assert len(weight_vectors(2, 3, np.random.default_rng(0))) == 2


def test_it_starts_around_the_uniform_average():
    problem = merge_like()
    batch = np.array(optimizer(problem, 2, population=24).ask())
    assert batch.mean() == pytest.approx(1 / 3, abs=0.08)
    assert 0.1 < batch.std() < 0.3


def test_one_weight_vector_finds_its_optimum():
    problem = zdt1(5)
    search = optimizer(problem, 1)
    for _ in range(40):
        search.tell([problem.outcome(genome) for genome in search.ask()])
    last = np.array(search.ask())
    assert np.abs(last[:, 1:]).mean() < 0.1  # where the sum of both objectives is least


@pytest.mark.parametrize("genes", [1, 24, 2000])
@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_any_number_of_genes_in_both_schedules(genes, schedule):
    problem = zdt1(genes)
    search = optimizer(problem, 2, schedule)
    asked, number = [], 0
    while len(asked) < 40:
        batch = [
            genome for _ in range(4 if schedule == "steady_state" else 1) for genome in search.ask()
        ]
        told = [problem.outcome(genome) for genome in batch]
        told[0] = Failed("timeout")
        told[1] = Raced(8, (0.0, 0.0))
        told[2] = Complete(told[2].values, (0.0, 0.0), violations=(1.0,))
        told[3:] = [Complete(o.values, (0.0, 0.0), violations=(-1.0,)) for o in told[3:]]
        search.tell(told, list(range(number, number + len(batch))))
        number += len(batch)
        asked += batch
    assert len(set(asked)) == len(asked)
