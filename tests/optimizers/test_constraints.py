"""Constrained search: against pymoo's own handling and a slow definition of constrained domination."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from evomerge.objectives.objective import Complete, Objective
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.nsga2 import _Survival
from evomerge.optimizers.steady_nsga2 import _Members
from evomerge.search_space import Gene

OBJECTIVES = (Objective("a.x", "minimize"), Objective("b.y", "minimize"))
GENES = tuple(Gene(n, 0.0, 5.0, 1e-3, "weight", n, ("embed",)) for n in ("x", "y"))


def population(rng: np.random.Generator, feasible: float) -> tuple[np.ndarray, np.ndarray]:
    """Values [40, 2] without ties, total violations [40], a share of which are 0."""
    values = rng.random((40, 2))
    amounts = np.where(rng.random(40) < feasible, 0.0, rng.random(40) + 0.01)
    return values, amounts


@pytest.mark.parametrize("feasible", [0.0, 0.2, 0.6, 1.0])
def test_survival_is_that_of_pymoo(feasible: float) -> None:
    for seed in range(5):
        values, amounts = population(np.random.default_rng(seed), feasible)
        problem = Problem(n_var=1, n_obj=2, n_ieq_constr=1, xl=0.0, xu=1.0)
        chosen = []
        for survival in (_Survival(), RankAndCrowding()):
            pop = Population.new("X", np.arange(40.0)[:, None])
            pop.set("F", values)
            pop.set("G", amounts[:, None])
            state = np.random.default_rng(1)
            kept = survival.do(problem, pop, n_survive=15, random_state=state)
            chosen.append([int(number) for number in kept.get("X")[:, 0]])
        ranks, crowding = pop.get("rank"), pop.get("crowding")

        def merit(number: int, ranks=ranks, crowding=crowding, amounts=amounts) -> tuple:
            # The two ends of a front are equally (infinitely) far from others: chance decides.
            if amounts[number] > 0:
                return (1, number)
            return (0, ranks[number], crowding[number] if np.isinf(crowding[number]) else number)

        assert sorted(map(merit, chosen[0])) == sorted(map(merit, chosen[1]))


def dominates(a: tuple, b: tuple) -> bool:
    """Deb et al. 2002, definition 1, word by word; a member is (values, violation)."""
    if a[1] == 0 and b[1] > 0:
        return True
    if a[1] > 0 and b[1] > 0 and a[1] < b[1]:
        return True
    equal = a[1] == b[1]
    return equal and all(x <= y for x, y in zip(a[0], b[0], strict=True)) and a[0] != b[0]


@pytest.mark.parametrize("feasible", [0.0, 0.3, 0.9])
def test_the_steady_members_rank_by_constrained_domination(feasible: float) -> None:
    values, amounts = population(np.random.default_rng(7), feasible)
    members = _Members(10, 2)
    for number, (row, amount) in enumerate(zip(values.tolist(), amounts.tolist(), strict=True)):
        members.add(number, np.zeros(2), row, amount)
        left = {n: (tuple(values[n].tolist()), float(amounts[n])) for n in members._numbers}
        expected: dict[int, int] = {}
        rank = 0
        while left:
            front = [n for n in left if not any(dominates(o, left[n]) for o in left.values())]
            expected |= dict.fromkeys(front, rank)
            left = {n: member for n, member in left.items() if n not in front}
            rank += 1
        found = dict(zip(members._numbers, members._rank().tolist(), strict=True))
        assert found == expected
    best = [n for n in range(40) if not any(
        dominates((tuple(values[o]), amounts[o]), (tuple(values[n]), amounts[n])) for o in range(40)
    )]  # fmt: skip
    assert set(best) <= set(members._numbers) or len(best) > 10


def binh_korn(genome: tuple[float, ...]) -> Complete:
    """Binh and Korn 1997 with a third, tight bound; the front of the constrained problem is known."""
    x, y = genome
    bounds = ((x - 5) ** 2 + y**2 - 25, 7.7 - (x - 8) ** 2 - (y + 3) ** 2, 12.0 - (4 * x**2 + 4 * y**2))
    return Complete((4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2), (0.0, 0.0), bounds)


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_a_known_constrained_front_is_found(schedule: str) -> None:
    """On it x = y for the first objective from 12 on, where the tight bound cuts the front off."""
    optimizer = make_optimizer(
        "nsga2",
        GENES,
        OBJECTIVES,
        population=20,
        seed=3,
        schedule=schedule,  # type: ignore[arg-type]
    )
    told = []
    for _ in range(20 if schedule == "generational" else 400):
        batch = optimizer.ask()
        outcomes = [binh_korn(genome) for genome in batch]
        optimizer.tell(outcomes)
        told += list(zip(batch, outcomes, strict=True))
    kept = [(g, o) for g, o in told if max(o.violations) <= 0]
    front = [
        (g, o)
        for g, o in kept
        if not any(
            all(a <= b for a, b in zip(other.values, o.values, strict=True))
            and other.values != o.values
            for _, other in kept
        )
    ]
    assert len(front) >= 15
    least = min(o.values[0] for _, o in front)
    assert 12.0 <= least < 13.0
    # With f1 = 8 t^2 on x = y = t, the best f2 is 2 (t - 5)^2.
    gaps = [o.values[1] - 2 * (math.sqrt(o.values[0] / 8) - 5) ** 2 for _, o in front]
    assert min(gaps) >= -1e-9
    assert np.mean(gaps) < 0.5
    late = [max(o.violations) <= 0 for _, o in told[-100:]]
    assert sum(late) > 60


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize("kind", ["nsga2", "random"])
def test_the_digest_depends_on_violations(kind: str, schedule: str) -> None:
    digests = set()
    for amount in (0.1, 0.2):
        optimizer = make_optimizer(
            kind,
            GENES,
            OBJECTIVES,
            population=4,
            seed=3,
            schedule=schedule,  # type: ignore[arg-type]
        )
        batch = optimizer.ask()
        optimizer.tell([Complete((1.0, 1.0), (0.0, 0.0), (amount,)) for _ in batch])
        digests.add(optimizer.state_digest())
    assert len(digests) == 2
