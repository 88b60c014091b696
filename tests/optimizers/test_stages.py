"""Stages: parts of a genome searched one after another, each from the front before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.objectives.objective import Complete
from evomerge.optimizers import m2n2
from evomerge.optimizers.m2n2 import scored
from evomerge.optimizers.settings import M2n2Settings
from evomerge.optimizers.stage import Stage
from evomerge.optimizers.stages import Stages
from evomerge.testing.problems import minimised
from tests.search_space.test_layer_path import space

SPACE = space(
    4, weight={"low": 0.0, "high": 1.0, "outside_layers": "shared"}, sources=["merged", "math"]
)
MERGE = 2
COUNT = 90


def outcome(genome):
    """A second weight of 0.8, layers of a path, and a first weight of which each objective has its own."""
    steps = [int(value) for value in genome[MERGE:] if value > 0]
    wrong = sum(a != b for a, b in zip(steps, [1, 6, 7, 8], strict=False)) + abs(len(steps) - 4)
    off = abs(genome[1] - 0.8) + wrong
    return Complete((abs(genome[0] - 0.2) + off, abs(genome[0] - 0.6) + off), (0.0, 0.0))


def searched(stages, evaluations=120, seed=1):
    given = [SPACE.uniform({"math": w, "code": w}) for w in (0.2, 0.5)]
    optimizer = Stages(stages, SPACE.genes, minimised(2), 10, seed, given)
    batches = []
    while sum(map(len, batches)) < evaluations:
        batch = optimizer.ask()
        # Parents are genomes of the campaign, whatever part of them a stage searches.
        known = {genome for each in batches for genome in each}
        for descent in optimizer.descents():
            assert {tuple(parent.tolist()) for parent in descent.parents} <= known
            assert len(descent.parents) == {"crossed": 2, "mutated": 1}.get(descent.origin.how, 0)
        optimizer.tell([outcome(genome) for genome in batch])
        batches.append(batch)
    return batches, optimizer.state_digest()


ORDERS = {
    "merge first": [Stage("merge", "nsga2", None, 40), Stage("path", "nsga2")],
    "path first": [Stage("path", "nsga2", None, 40), Stage("merge", "surrogate")],
    "both last": [
        Stage("merge", "nsga2", None, 30),
        Stage("path", "random-global", None, 30),
        Stage("both", "nsga2"),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
def test_stages_improve_on_one_another_and_ask_nothing_twice(order):
    batches, digest = searched(ORDERS[order], COUNT)
    every = [genome for batch in batches for genome in batch]
    assert len(set(every)) == len(every)
    assert all(SPACE.snap(genome) == genome for genome in every)
    sums = [sum(outcome(genome).values) for genome in every]
    first = next(each.evaluations for each in ORDERS[order])
    assert min(sums[first:]) < min(sums[:first])
    assert searched(ORDERS[order], COUNT) == (batches, digest)


def test_a_stage_keeps_what_it_does_not_search():
    batches, _ = searched([Stage("merge", "nsga2", None, 40), Stage("path", "nsga2")], 80)
    every = [genome for batch in batches for genome in batch]
    home = SPACE.paths.spell(SPACE.paths.home)
    assert {genome[MERGE:] for genome in every[:40]} == {home}
    merges = {genome[:MERGE] for genome in every[40:]}
    assert merges <= {genome[:MERGE] for genome in every[:40]}
    assert len(merges) > 1
    # They are the front of the first stage, and near what that has to find.
    values = np.array([outcome(genome).values for genome in every[:40]])
    best = np.array(sorted(merges, key=lambda merge: sum(outcome((*merge, *home)).values))[0])
    assert sum(outcome((*best, *home)).values) == pytest.approx(values.sum(axis=1).min())


def test_a_stage_that_looks_at_items_is_told_those_of_the_stage_before(monkeypatch):
    plain = Stages(
        [Stage("merge", "nsga2", None, 20), Stage("path", "nsga2")], SPACE.genes, minimised(2), 10, 1
    )
    assert not plain.wants_items
    seen = []
    monkeypatch.setattr(m2n2, "scored", lambda asked: seen.append(asked.told) or scored(asked))
    stages = [Stage("path", "nsga2", None, 10), Stage("merge", "m2n2", M2n2Settings())]
    given = [SPACE.uniform({"math": w, "code": w}) for w in (0.2, 0.5)]
    optimizer = Stages(stages, SPACE.genes, minimised(2), 10, 1, given)
    assert optimizer.wants_items
    for _ in range(4):
        batch = optimizer.ask()
        told = [outcome(genome) for genome in batch]
        items = [tuple(np.full(3, -value) for value in each.values) for each in told]
        optimizer.tell([replace(o, items=i) for o, i in zip(told, items, strict=True)])
    (*_, last) = seen
    assert last
    assert all(each.items is not None for _, each in last)


def test_a_stage_without_genes_is_refused():
    with pytest.raises(ConfigError, match=r"E121.*stages\.1: a stage of merge has no free gene"):
        Stages(
            [Stage("path", "nsga2", None, 5), Stage("merge", "nsga2")],
            space(3).genes,
            minimised(1),
            4,
            1,
        )
