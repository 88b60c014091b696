"""What optimizers say their candidates were made of: after every ask, of genomes that were told before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evomerge.objectives.origin import Origin
from evomerge.optimizers.descent import children
from evomerge.optimizers.grid import Grid
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.optimizer import KnowsDescent
from evomerge.testing.optimizers import OBJECTIVES, example_genes, example_outcome
from tests.optimizers.few_points import few_points  # noqa: F401

pytestmark = pytest.mark.usefixtures("few_points")

GENES = example_genes()
GIVEN = (tuple(0.4 for _ in GENES), tuple(0.8 for _ in GENES))

KINDS = {
    "nsga2": ({}, {"given", "start", "crossed", "mutated"}),
    "random": ({}, {"given", "random"}),
    "surrogate": (
        {"start": 8, "generations": 2, "inner_population": 8, "reuse": 4},
        {"given", "start", "model"},
    ),
    "mmmo": ({"start": 6}, {"given", "random", "step"}),
    "m2n2": ({}, {"given", "crossed"}),
    "kinship": ({}, {"given", "mean"}),
    "cma-es": ({"weights": 3}, {"given", "strategy"}),
    "optuna": ({"sampler": "nsga3"}, {"given", "proposed"}),
}


def asked_of(kind: str, schedule: str, options: dict[str, object], asks: int):
    """Every batch with its descents, and the genomes that were told before it."""
    optimizer = make_optimizer(
        kind, GENES, OBJECTIVES, population=6, seed=4, initial=GIVEN,
        settings=optimizer_settings(kind, options), schedule=schedule,
    )  # fmt: skip
    assert isinstance(optimizer, KnowsDescent)
    told: set[tuple[float, ...]] = set()
    for _ in range(asks):
        batch = optimizer.ask()
        yield batch, optimizer.descents(), set(told)
        optimizer.tell([example_outcome(genome) for genome in batch])
        told |= set(batch)


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize("kind", KINDS)
def test_parents_were_told_before_their_children(kind, schedule):
    options, ways = KINDS[kind]
    found: list[Origin] = []
    for batch, descents, told in asked_of(
        kind, schedule, options, 4 if schedule == "generational" else 14
    ):
        assert len(descents) == len(batch)
        for genome, descent in zip(batch, descents, strict=True):
            assert descent is not None
            assert (descent.origin.how == "given") == (genome in GIVEN)
            assert {tuple(parent.tolist()) for parent in descent.parents} <= told
            wanted = {"crossed": {2}, "mutated": {1}, "mean": {2}, "step": {3}}
            assert len(descent.parents) in wanted.get(descent.origin.how, {0})
            found.append(descent.origin)
    assert {origin.how for origin in found} >= ways - {"mutated", "start"}
    assert {origin.how for origin in found} <= ways | {"mutated", "random"}
    for origin in found:
        assert (origin.preference is not None) == (origin.how == "strategy")
        assert origin.preference is None or sum(origin.preference) == pytest.approx(1.0, abs=1e-5)


def test_means_and_blends_lie_where_their_parents_say():
    grid = Grid(GENES)
    for kind, options in (("kinship", {}), ("m2n2", {"mutation": 0.0})):
        made = 0
        for batch, descents, _ in asked_of(kind, "generational", options, 3):
            for genome, descent in zip(batch, descents, strict=True):
                if len(descent.parents) != 2:
                    continue
                made += 1
                one, two = descent.parents
                if kind == "kinship":
                    assert genome == tuple(grid.snap((one + two)[None] / 2.0)[0].tolist())
                    continue
                # One share before a place in depth and one minus it behind, to half a step of the grid.
                apart = np.abs(one - two) > 0.2
                share = ((np.array(genome) - two)[apart] / (one - two)[apart]).round(1)
                assert not apart.any() or len({min(s, round(1.0 - s, 1)) for s in share.tolist()}) <= 2
        assert made > 4


def test_a_child_that_was_not_crossed_has_one_parent():
    parents = np.arange(12.0).reshape(2, 2, 3)
    crossed = parents.copy()
    crossed[0, 1, 0], crossed[1, 1, 0] = parents[1, 1, 0], parents[0, 1, 0]
    crossed[:, 0] = crossed[::-1, 0]
    first, second, third, fourth = children(parents, crossed)
    assert [each.origin.how for each in (first, second, third, fourth)] == [
        "mutated", "crossed", "mutated", "crossed",
    ]  # fmt: skip
    assert np.array_equal(first.parents[0], parents[1, 0])
    assert np.array_equal(third.parents[0], parents[0, 0])
    for one, two in itertools.pairwise((second.parents, fourth.parents)):
        assert np.array_equal(one, two)
        assert np.array_equal(np.array(one), parents[:, 1])
