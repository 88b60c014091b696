"""Learning from slopes on problems that behave like merges: worth its cost, the same again, and replayed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.testing.problems import merge_like

ITEMS, BUDGET, BACKWARD = 100, 40, 3.3
"""Search items of each task; evaluations that all may cost; evaluations that a gradient costs."""

PROBLEMS = {
    "2 objectives, 24 genes": {"experts": 2, "layers": 12},
    "2 objectives, 168 genes": {"experts": 2, "layers": 12, "modules": 7},
    "3 objectives, 24 genes": {"experts": 3, "layers": 8},
    "3 objectives, 168 genes": {"experts": 3, "layers": 8, "modules": 7},
    "6 objectives, 24 genes": {"experts": 6, "layers": 4},
}
OPTIONS = {"learned-front": {}, "auto": {"generations": 6, "inner_population": 16}}


def made(problem, kind):
    return make_optimizer(
        kind,
        problem.genes,
        problem.objectives,
        population=6,
        seed=2,
        initial=problem.initial,
        settings=optimizer_settings(kind, OPTIONS.get(kind, {})),
    )


def learning(problem, kind):
    """One that begins to learn, for half of the budget at most."""
    optimizer = made(problem, kind)
    every = ITEMS * len(problem.objectives)
    optimizer.begin(replace(problem.ground, allowance=BUDGET / 2 * every, backward=BACKWARD))
    return optimizer


def cost_of(request):
    """In evaluations."""
    items = sum(
        len(own) * (BACKWARD if weight > 0.0 else 1.0)
        for own, weight in zip(request.items, request.weights, strict=True)
    )
    return items / (ITEMS * len(request.items))


def searched(problem, kind):
    """Genomes that the budget pays for, what it cost to learn, and what a ledger has of it all."""
    slopes = kind in OPTIONS
    optimizer = learning(problem, kind) if slopes else made(problem, kind)
    lessons, turns, asked, cost = [], [], [], 0.0
    while slopes and (requests := optimizer.slopes()):
        answers = [problem.slope(request) for request in requests]
        cost += sum(map(cost_of, requests))
        lessons.append((requests, answers))
        optimizer.tell_slopes(answers)
    while len(asked) + cost < BUDGET:
        batch = optimizer.ask()
        outcomes = [problem.outcome(genome) for genome in batch]
        kept = (optimizer.notes(batch), optimizer.forecast()) if slopes else ()
        optimizer.tell(outcomes)
        turns.append((batch, kept, outcomes, optimizer.state_digest()))
        asked += batch
    return asked[: int(BUDGET - cost)], cost, (lessons, turns)


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_ends_better_than_random_at_the_same_cost_and_replays(name):
    problem = merge_like(items=ITEMS, **PROBLEMS[name])
    random, _, _ = searched(problem, "random")
    assert len(problem.genes) == int(name.split()[2])
    for kind in OPTIONS:
        asked, cost, (lessons, turns) = searched(problem, kind)
        assert 0.0 < cost <= BUDGET / 2
        assert len(set(asked)) == len(asked) == int(BUDGET - cost)
        assert problem.quality(asked) > problem.quality(random), kind
        again = learning(problem, kind)
        for requests, answers in lessons:
            assert again.slopes() == requests
            again.adopt_slopes({n: request.note for n, request in enumerate(requests)})
            again.tell_slopes(answers)
        assert again.slopes() == []
        for batch, kept, outcomes, digest in turns[:-1]:
            again.adopt(batch, *kept)
            again.tell(outcomes)
            assert again.state_digest() == digest
        assert again.ask() == turns[-1][0]
