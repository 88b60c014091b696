"""Every optimizer kind passes the suite that third parties run, also with each of its options."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings

import pytest

from evomerge.optimizers import proposals
from evomerge.optimizers.builtin import KINDS
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.testing.optimizers import (
    CHECKS,
    OBJECTIVES,
    STEADY_CHECKS,
    check_failures_have_no_degree,
    check_no_repeats,
    example_genes,
    run,
)
from tests.optimizers.few_points import few_points  # noqa: F401

pytestmark = pytest.mark.usefixtures("few_points")

VARIANTS = [
    ("nsga2", {}),
    ("nsga2", {"start": "random", "operators": "standard"}),
    ("nsga2", {"global_generations": 0.0}),
    ("surrogate", {"generations": 2, "inner_population": 8, "reuse": 24}),
    ("learned-front", {}),
    ("auto", {"generations": 2, "inner_population": 8, "reuse": 24}),
    ("mmmo", {}),
    ("m2n2", {}),
    ("kinship", {"similarity": "pearson"}),
    ("qlognehvi", {"samples": 2, "restarts": 1, "iterations": 1}),
    ("cma-es", {"weights": 3}),
    ("optuna", {"sampler": "nsga3"}),
    ("random-global", {}),
    ("random", {}),
    ("random", {"structure": "global"}),
]


STARTS = {check_no_repeats: 150, check_failures_have_no_degree: 48}
STEADY_STARTS = {check_no_repeats: 116}
"""After how many candidates qLogNEHVI chooses points, by check, else after 60: each takes it 0.1 s."""


def cheap(monkeypatch, kind, options, start):
    """The options of a kind; qLogNEHVI fits nothing, which changes no rule that it must keep."""
    if kind != "qlognehvi":
        return options
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # as where it is made: what BoTorch imports is deprecated by torch
        from evomerge.optimizers import qlognehvi

    monkeypatch.setattr(qlognehvi, "fit_gpytorch_mll", lambda likelihood: likelihood)
    monkeypatch.setattr(proposals, "_TRIES", 2)
    return options | {"start": start}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_conformance(check, kind, options, monkeypatch):
    options = cheap(monkeypatch, kind, options, STARTS.get(check, 60))

    def factory(genes, objectives, population, seed, initial):
        return make_optimizer(
            kind,
            genes,
            objectives,
            population=population,
            seed=seed,
            initial=initial,
            settings=optimizer_settings(kind, options),
        )

    check(factory)


@pytest.mark.parametrize("check", STEADY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_conformance_in_steady_state(check, kind, options, monkeypatch):
    options = cheap(monkeypatch, kind, options, STEADY_STARTS.get(check, 60))

    def factory(genes, objectives, population, seed, initial):
        return make_optimizer(
            kind,
            genes,
            objectives,
            population=population,
            seed=seed,
            initial=initial,
            settings=optimizer_settings(kind, options),
            schedule="steady_state",
        )

    check(factory)


def test_all_kinds_are_checked():
    # hm3 wants paths of layers and has tests of its own.
    assert {kind for kind, _ in VARIANTS} == set(KINDS) - {"hm3"}


SMALL = dict(reversed(VARIANTS))
"""Of each kind the first variant."""
del SMALL[
    "qlognehvi"
]  # `test_qlognehvi` has a replay; in another process its libraries take seconds to load

REPLAY = """
import numpy, random
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.testing.optimizers import OBJECTIVES, example_genes, run
from tests.optimizers.few_points import fewer
fewer()
for other, kinds in enumerate(({kinds!r}, {kinds!r}[::-1])):
    for kind, options in kinds:
        numpy.random.seed(other); random.seed(other)
        given = dict(population=10, seed=11, settings=optimizer_settings(kind, options))
        optimizer = make_optimizer(kind, example_genes(), OBJECTIVES, **given)
        run(optimizer, 12)
        print(kind, optimizer.state_digest())
"""


@functools.cache
def digests_elsewhere() -> list[list[str]]:
    """Kinds and what they come to in another process: one for all, which goes through them in both orders."""
    done = subprocess.run(
        [sys.executable, "-c", REPLAY.format(kinds=sorted(SMALL.items()))],
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_another_process_asks_the_same(kind):
    settings = optimizer_settings(kind, SMALL[kind])
    optimizer = make_optimizer(
        kind, example_genes(), OBJECTIVES, population=10, seed=11, settings=settings
    )
    run(optimizer, 12)
    found = [digest for each, digest in digests_elsewhere() if each == kind]
    assert found == [optimizer.state_digest()] * 2


def test_the_drivers_modules_load_no_pymoo_before_it_is_made():
    script = """
import sys
import evomerge.ledger.item_store, evomerge.front.statistics
from evomerge.optimizers.kinds import make_optimizer
from evomerge.testing.optimizers import OBJECTIVES, example_genes
make_optimizer("random", example_genes(), OBJECTIVES, population=4, seed=0)
assert "pymoo" not in sys.modules
make_optimizer("nsga2", example_genes(), OBJECTIVES, population=4, seed=0)
assert not {"torch", "transformers", "lm_eval", "ray", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
