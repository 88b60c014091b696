"""qLogNEHVI by BoTorch, which the extra `dev` brings."""

from __future__ import annotations

import sys

import pytest

from evomerge.errors import ConfigError
from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.settings import QLogNehviSettings
from evomerge.testing.problems import zdt1

QUICK = QLogNehviSettings(start=8, samples=4, restarts=1, iterations=4)


def make(genes, objectives, population, seed, initial, schedule="generational"):
    return make_optimizer(
        "qlognehvi",
        genes,
        objectives,
        population=population,
        seed=seed,
        initial=initial,
        settings=QUICK,
        schedule=schedule,
    )


def test_without_botorch_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "evomerge.optimizers.qlognehvi", raising=False)
    loaded = [name for name in sys.modules if name.startswith("botorch.")]
    for name in ("botorch", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    problem = zdt1(3)
    with pytest.raises(ConfigError, match=r"E123.*`qlognehvi` needs botorch.*evomerge\[botorch\]"):
        make(problem.genes, problem.objectives, 4, 0, ())


def test_it_is_replayed_with_constraints_and_comes_near_the_front():
    problem = zdt1(3)
    ends = []
    for _ in range(2):
        optimizer = make(problem.genes, problem.objectives, 4, 3, ())
        asked = []
        for _ in range(3):
            batch = optimizer.ask()
            told = [problem.outcome(genome) for genome in batch]
            told = [
                Complete(o.values, o.errors, (0.3 - g[0],)) for o, g in zip(told, batch, strict=True)
            ]
            told[0] = Failed("timeout")
            told[1] = Raced(8, (0.0, 0.0))
            asked += batch
            optimizer.tell(told)
        ends.append((asked, optimizer.state_digest()))
    assert ends[0] == ends[1]
    first, last = ends[0][0][:8], ends[0][0][-4:]
    assert sum(g[1] + g[2] for g in last) / 4 < sum(g[1] + g[2] for g in first) / 8


def test_pending_candidates_are_taken_into_account():
    problem = zdt1(2)
    optimizer = make(problem.genes, problem.objectives, 4, 3, (), "steady_state")
    for number in range(8):
        optimizer.tell([problem.outcome(optimizer.ask()[0])], [number])
    one, other = optimizer.ask()[0], optimizer.ask()[0]
    assert abs(one[0] - other[0]) + abs(one[1] - other[1]) > 0.01
