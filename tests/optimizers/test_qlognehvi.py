"""qLogNEHVI by BoTorch, where that is installed."""

from __future__ import annotations

import sys

import pytest

from evomerge.errors import ConfigError
from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.settings import QLogNehviSettings
from evomerge.testing.optimizers import (
    check_bad_values,
    check_digest,
    check_failures,
    check_failures_have_no_degree,
    check_grid,
    check_initial,
    check_order,
    check_steady_order,
)
from evomerge.testing.problems import zdt1

QUICK = QLogNehviSettings(start=8, samples=8, restarts=1, iterations=5)


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
    monkeypatch.setitem(sys.modules, "botorch", None)
    problem = zdt1(3)
    with pytest.raises(ConfigError, match=r"E123.*`qlognehvi` needs botorch.*evomerge\[botorch\]"):
        make(problem.genes, problem.objectives, 4, 0, ())


@pytest.fixture
def installed():
    pytest.importorskip("botorch", exc_type=ImportError)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "check",
    [
        check_order,
        check_digest,
        check_grid,
        check_initial,
        check_failures,
        check_failures_have_no_degree,
        check_bad_values,
    ],
    ids=lambda check: check.__name__,
)
def test_conformance(check):
    check(make)


@pytest.mark.usefixtures("installed")
def test_steady_state():
    check_steady_order(lambda *given: make(*given, schedule="steady_state"))


@pytest.mark.usefixtures("installed")
def test_it_is_replayed_with_constraints_and_finds_the_front():
    problem = zdt1(3)
    ends = []
    for _ in range(2):
        optimizer = make(problem.genes, problem.objectives, 4, 3, ())
        asked = []
        for _ in range(8):
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
    late = ends[0][0][-12:]
    assert sum(genome[0] >= 0.3 for genome in late) >= 8
    assert sum(genome[1] + genome[2] for genome in late) / 24 < 0.35
