"""CMA-ES on weighted sums: weight vectors in turn, from the uniform average by the method's defaults."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers.cma_es import weight_vectors
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.recorded_settings import as_begun
from evomerge.optimizers.settings import CmaEsSettings
from evomerge.search_space import Gene
from evomerge.testing.problems import merge_like, minimised, zdt1
from tests.search_space.test_search_space import space


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


def first_batch(genes, settings):
    """By coefficient and whose it is the mean of what is asked first, closely around where it starts."""
    search = make_optimizer("cma-es", genes, minimised(2), population=40, seed=2, settings=settings)
    means = np.mean(search.ask(), axis=0)
    found: dict[tuple[str, bool], list[float]] = {}
    for gene, mean in zip(genes, means, strict=True):
        found.setdefault((gene.coefficient, gene.input != "*"), []).append(mean)
    return {key: float(np.mean(values)) for key, values in found.items()}


def test_what_is_no_weight_starts_at_the_methods_default():
    """All of a task vector is the default density of DARE, also where a search may not keep all."""
    both = {"weight": {"field": "layer"}, "lambda": {"field": "model"}}
    for low, high, start in ((0.1, 1.0, 1.0), (0.2, 0.8, 0.8)):
        genes = space("dare_linear", **both, density={"field": "layer", "low": low, "high": high}).genes
        found = first_batch(genes, CmaEsSettings(1, sigma=0.01))
        assert found["weight", True] == pytest.approx(0.5, abs=0.01)
        assert found["density", True] == pytest.approx(start, abs=0.02)
        assert found["lambda", False] == pytest.approx(1.0, abs=0.01)


def test_a_curve_starts_where_it_is_the_default_everywhere():
    of_density = {"field": "depth_curve", "knots": 3, "low": 0.2, "high": 1.0}
    genes = space("dare_linear", weight={"field": "model"}, density=of_density).genes
    assert {gene.default for gene in genes} == {1.0}
    sloped = {"field": "lines", "low": 0.3, "high": 0.9, "slope_low": -0.1, "slope_high": 0.1}
    found = space("dare_linear", weight={"field": "model"}, density=sloped)
    slopes = [gene.default for gene in found.genes if gene.name.endswith("beta")]
    assert slopes
    assert set(slopes) == {0.0}


def test_a_gene_without_a_default_starts_in_the_middle():
    genes = (*merge_like().genes, Gene("density.e0", 0.2, 0.6, 1e-3, "density", "e0", ("layers.0.m0",)))
    found = first_batch(genes, CmaEsSettings(1, sigma=0.01))
    assert found["density", True] == pytest.approx(0.4, abs=0.01)
    assert found["weight", True] == pytest.approx(1 / 3, abs=0.01)


def test_a_campaign_from_before_goes_on_from_where_it_began():
    """There densities began where weights did; and a space of weights alone is asked as it ever was."""
    recorded = {"weights": 1, "sigma": 0.01}
    genes = space("dare_linear", weight={"field": "layer"}, density={"field": "layer"}).genes
    for before in (as_begun("cma-es", {}, recorded), as_begun("cma-es", recorded, None)):
        assert first_batch(genes, before)["density", True] == pytest.approx(0.5, abs=0.01)
    weights = merge_like()
    now, then = CmaEsSettings(2), as_begun("cma-es", {}, {"weights": 2, "sigma": 1 / 6})
    asked = [
        make_optimizer(
            "cma-es", weights.genes, weights.objectives, population=24, seed=2, settings=settings
        ).ask()
        for settings in (now, then)
    ]
    assert asked[0] == asked[1]


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
