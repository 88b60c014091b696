"""Stages: parts of a genome searched one after another, each from the front before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.objectives.objective import Complete
from evomerge.optimizers import m2n2
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.learned_front import LearnedFront
from evomerge.optimizers.m2n2 import scored
from evomerge.optimizers.settings import M2n2Settings
from evomerge.optimizers.slopes import Slope, SlopeGround
from evomerge.optimizers.stage import Stage, stage_kind, without_learning
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


def test_a_replay_asks_stages_again_so_that_they_steer_as_ever():
    alone = make_optimizer("surrogate", SPACE.genes[:MERGE], minimised(2), population=10, seed=1)
    staged = Stages([Stage("merge", "surrogate")], SPACE.genes, minimised(2), 10, 1)
    assert (alone.asks_again, staged._inner.asks_again) == (False, True)


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


GROUND = SlopeGround((40, 40), {"math": (1.0, 0.0), "code": (0.0, 1.0)})
BEST = np.array([[1.0, 0.2], [0.1, 0.9]])


def slope(request, cost=1.0):
    """Loss t is the square distance of the merge to the best one of t; genes of the path have no gradient."""
    found = np.zeros(len(SPACE.genes))
    away = np.array(request.genome[:MERGE]) - BEST
    found[:MERGE] = 2.0 * np.array(request.weights) @ away
    losses = tuple((away**2).sum(axis=1).tolist())
    return Slope(losses, found if any(request.weights) else np.empty(0), cost)


def learning(then, evaluations=40, seed=1, **options):
    lesson = optimizer_settings("learned-front", {"steps": 25, **options})
    stages = [Stage("merge", "learned-front", lesson, evaluations), then]
    given = [SPACE.uniform({"math": w, "code": w}) for w in (0.2, 0.5)]
    found = Stages(stages, SPACE.genes, minimised(2), 10, seed, given)
    found.begin(GROUND)
    return found


def taught(optimizer, cost=1.0):
    """Requests that were answered, until there were no more."""
    found = []
    while requests := optimizer.slopes():
        assert optimizer.slopes() == requests
        optimizer.tell_slopes([slope(request, cost) for request in requests])
        found += requests
    return found


def told(optimizer, batches):
    every = []
    for _ in range(batches):
        every.append(optimizer.ask())
        optimizer.tell([outcome(genome) for genome in every[-1]])
    return every


@pytest.mark.parametrize("then", [Stage("path", "nsga2"), Stage("both", "random-global")])
def test_a_first_stage_learns_the_merge_with_all_layers_in_order(then):
    optimizer = learning(then, steps=40, rate=0.1)
    home = SPACE.paths.spell(SPACE.paths.home)
    requests = taught(optimizer, cost=0.1)
    assert sum(any(request.weights) for request in requests) == 40
    assert {request.genome[MERGE:] for request in requests} == {home}
    assert all(SPACE.snap(request.genome) == request.genome for request in requests)
    batch, *_ = told(optimizer, 1)
    assert {genome[MERGE:] for genome in batch} == {home}
    # The map's corners come near to what each objective wants: gradients were those of the merge's genes.
    for best in BEST:
        assert min(np.abs(np.array(genome[:MERGE]) - best).max() for genome in batch) < 0.2
    rest = told(optimizer, 5)
    assert optimizer.stage == 1
    assert {genome[MERGE:] for genome in rest[-1]} != {home}
    assert not optimizer.slopes()


def test_slopes_are_spent_from_the_evaluations_of_their_stage():
    """Half of 40 at most, in whole steps; 20 are left, two generations, then the next stage asks."""
    optimizer = learning(Stage("path", "nsga2"), evaluations=40, look_from=99)
    assert len(taught(optimizer, cost=1.5)) == 14
    told(optimizer, 2)
    assert optimizer.stage == 0
    told(optimizer, 1)
    assert optimizer.stage == 1
    free = learning(Stage("path", "nsga2"), evaluations=40)
    free.enough()
    assert not free.slopes()
    told(free, 4)
    assert free.stage == 0
    told(free, 1)
    assert free.stage == 1


def test_a_lesson_that_gave_up_leaves_no_map_to_the_next_stage():
    settings = optimizer_settings("hm3", {"episodes": 5, "epochs": 1, "hidden": 4})
    optimizer = learning(Stage("path", "hm3", settings), evaluations=20)
    assert optimizer.given_up is None
    for _ in range(3):
        optimizer.tell_slopes([None] * len(optimizer.slopes()))
    assert not optimizer.slopes()
    told(optimizer, 3)
    assert (optimizer.stage, optimizer.given_up) == (1, "nothing")
    assert optimizer._map is None


@pytest.mark.parametrize("searches", ["path", "both"])
def test_hm3_takes_for_a_preference_what_was_learned_for_it(searches):
    settings = optimizer_settings("hm3", {"episodes": 5, "epochs": 1, "hidden": 4})
    optimizer = learning(Stage(searches, "hm3", settings), evaluations=30)
    taught(optimizer, cost=0.1)
    alone = LearnedFront(
        SPACE.merging.genes, minimised(2), 10, 1, (), optimizer_settings("learned-front", {"steps": 25})
    )
    alone.begin(GROUND)
    while requests := alone.slopes():
        full = [replace(r, genome=(*r.genome, *SPACE.paths.spell(SPACE.paths.home))) for r in requests]
        answers = [slope(request) for request in full]
        parts = [replace(a, gradient=a.gradient[:MERGE]) for a in answers]
        alone.tell_slopes(parts)
    seen = []
    for _ in range(7):
        batch = optimizer.ask()
        if optimizer.stage == 1:
            seen += zip(batch, optimizer.descents(), strict=True)
        optimizer.tell([outcome(genome) for genome in batch])
    walked = [(genome, d.origin.preference) for genome, d in seen if d.origin.how == "policy"]
    assert len(walked) > 10
    for genome, preference in walked:
        learned = alone.lesson.map.points(np.array([preference]))[0]
        assert np.abs(np.array(genome[:MERGE]) - learned).max() < 2e-3
    assert len({genome[:MERGE] for genome, _ in walked}) > 10


def test_a_lesson_goes_by_what_is_on_record():
    """Another machine's preferences are taken over from notes, and come to its state."""
    one, other = (learning(Stage("path", "nsga2"), steps=3) for _ in range(2))
    while requests := one.slopes():
        one.tell_slopes([slope(request) for request in requests])
        other.slopes()
        other.adopt_slopes({number: request.note for number, request in enumerate(requests)})
        assert other.slopes() == requests
        other.tell_slopes([slope(request) for request in requests])
    assert told(one, 6) == told(other, 6)
    assert one.state_digest() == other.state_digest()
    fresh = learning(Stage("path", "nsga2"))
    assert fresh.slopes()
    with pytest.raises(ValueError, match="slope 0 has a note of 1 numbers"):
        fresh.adopt_slopes({0: (1.0,)})


def test_kinds_of_stages():
    assert stage_kind("merge", None, first=True) == "surrogate"
    assert stage_kind("merge", "auto", first=True) == "auto"
    assert stage_kind("merge", "auto", first=False) == "surrogate"
    assert stage_kind("path", "auto", first=True) == stage_kind("both", "auto", first=False) == "nsga2"
    assert stage_kind("path", "hm3", first=False) == "hm3"
    assert without_learning(Stage("merge", "auto", object(), 5)) == Stage("merge", "surrogate", None, 5)
    learned = Stage("merge", "learned-front", None, 5)
    assert without_learning(learned) == learned
