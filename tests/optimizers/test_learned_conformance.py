"""Kinds that learn from gradients do with a learned map all that any optimizer must: the suite, and more.

Candidates that fail, lose their race or break a bound, grids that are exhausted, and a single gene.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed, Objective, Raced
from evomerge.optimizers import proposals
from evomerge.optimizers.slopes import Slope, SlopeGround
from evomerge.search_space import Gene
from evomerge.testing.optimizers import CHECKS, STEADY_CHECKS
from evomerge.testing.problems import merge_like
from tests.optimizers.taught import taught

OPTIONS = {
    "learned-front": {"steps": 4, "items": 8},
    "auto": {"steps": 4, "items": 8, "generations": 5, "inner_population": 16, "reuse": 24},
}


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch):
    """What was known is proposed anew three times: 20 take long where a grid is nearly exhausted."""
    monkeypatch.setattr(proposals, "_TRIES", 3)


kinds = pytest.mark.parametrize("kind", OPTIONS)
schedules = pytest.mark.parametrize("schedule", ["generational", "steady_state"])


def factory(kind, schedule):
    """As the suite wants it; losses are squares, from 0.2 of the first objective to 0.9 of the last."""

    def slope(request):
        row = np.array(request.genome)
        apart = [row - aim for aim in np.linspace(0.2, 0.9, len(request.weights)).tolist()]
        gradient = sum(
            2.0 * w * each / len(row) for w, each in zip(request.weights, apart, strict=True)
        )
        losses = tuple(float(np.mean(each**2)) for each in apart)
        return Slope(losses, gradient if any(request.weights) else np.empty(0))

    def make(genes, objectives, population, seed, initial):
        experts = sorted({gene.input for gene in genes if gene.coefficient == "weight"})
        count = len(objectives)
        gains = {e: tuple(float(t == k % count) for t in range(count)) for k, e in enumerate(experts)}
        ground = SlopeGround((20,) * count, gains)
        return taught(
            kind, genes, objectives, population=population, seed=seed, initial=initial,
            schedule=schedule, ground=ground, slope=slope, options=OPTIONS[kind],
        )  # fmt: skip

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@kinds
def test_conformance(check, kind):
    check(factory(kind, "generational"))


@pytest.mark.parametrize("check", STEADY_CHECKS, ids=lambda check: check.__name__)
@kinds
def test_conformance_in_steady_state(check, kind):
    check(factory(kind, "steady_state"))


@cache
def problem(step=1e-3, layers=1):
    found = merge_like(layers=layers, items=60, seed=5)
    return replace(found, genes=tuple(replace(gene, step=step) for gene in found.genes))


def learned(kind, schedule, of, population=8):
    return taught(
        kind, of.genes, of.objectives, population=population, seed=1, initial=of.initial,
        schedule=schedule, ground=of.ground, slope=of.slope, options=OPTIONS[kind],
    )  # fmt: skip


def searched(kind, schedule, of, outcome, evaluations):
    """Candidates with what was told of them, until there are so many or there is no other; and who chose."""
    optimizer, told, by = learned(kind, schedule, of), [], []
    while len(told) < evaluations and (batch := optimizer.ask()):
        by.append(optimizer.forecast() and optimizer.forecast().by)
        numbers = list(range(len(told), len(told) + len(batch)))
        outcomes = [outcome(n, genome) for n, genome in zip(numbers, batch, strict=True)]
        optimizer.tell(outcomes, numbers)
        told += zip(batch, outcomes, strict=True)
    assert len({genome for genome, _ in told}) == len(told), "a genome was asked twice"
    snapped = [tuple(g.snap(v) for g, v in zip(of.genes, genome, strict=True)) for genome, _ in told]
    assert [genome for genome, _ in told] == snapped
    return told, by


def all_that_happens(of, failed="timeout", bound=0.0):
    """Failures and races among the others."""

    def outcome(number, genome):
        if number % 5 == 1:
            return Failed(failed)
        if number % 5 == 3:
            return Raced(8, (bound,) * len(of.objectives))
        return of.outcome(genome)

    return outcome


@schedules
@kinds
def test_failures_and_races_among_others_have_no_degree_and_stop_nothing(kind, schedule):
    of = problem(layers=4)
    one, by = searched(kind, schedule, of, all_that_happens(of), 48)
    other, _ = searched(kind, schedule, of, all_that_happens(of, "nonfinite_weights", 99.0), 48)
    assert [genome for genome, _ in one] == [genome for genome, _ in other]
    assert len(one) >= 48
    assert kind != "auto" or {"map"} < set(by) - {None}, "a model chose some of them"


@schedules
@pytest.mark.parametrize("all_are", [Failed("timeout"), Raced(8, (0.0,) * 3)], ids=["fail", "raced"])
@kinds
def test_where_nothing_has_values_it_goes_on(kind, all_are, schedule):
    told, _ = searched(kind, schedule, problem(), lambda number, genome: all_are, 40)
    assert len(told) >= 40


def last_share(kind, outcome, bad):
    told, _ = searched(kind, "generational", problem(layers=4), outcome, 64)
    return float(np.mean([bad(each) for _, each in told[-24:]]))


def test_where_half_of_the_space_fails_auto_keeps_away():
    """By its models, which learn of failures; a map alone does not, and goes on."""
    of = problem(layers=4)
    middle = 0.6

    def outcome(number, genome):
        return Failed("timeout") if np.mean(genome[:4]) > middle else of.outcome(genome)

    def failed(each):
        return isinstance(each, Failed)

    assert last_share("auto", outcome, failed) < 0.6 * last_share("learned-front", outcome, failed)


def test_with_a_constraint_auto_comes_to_keep_it():
    """A map knows no bounds, and a third of its points break this one."""
    of = problem(layers=4)

    def outcome(number, genome):
        found = of.outcome(genome)
        return replace(found, violations=(float(np.mean(genome[:4])) - 0.6,))

    def broken(each):
        return each.violations[0] > 0.0

    assert last_share("auto", outcome, broken) < 0.6 * last_share("learned-front", outcome, broken)


@schedules
@kinds
def test_a_small_grid_is_asked_whole_whatever_becomes_of_its_points(kind, schedule):
    of = problem(step=0.375)
    bounded = all_that_happens(of)

    def outcome(number, genome):
        found = bounded(number, genome)
        return replace(found, violations=(genome[0] - 0.75,)) if isinstance(found, Complete) else found

    told, _ = searched(kind, schedule, of, outcome, 1000)
    assert len(told) == 5**3


@schedules
@pytest.mark.parametrize("objectives", [1, 2])
@kinds
def test_a_single_gene_is_learned_and_then_asked_at_every_value(kind, objectives, schedule):
    gene = Gene("weight.e", 0.0, 1.5, 0.1, "weight", "e", ("layers.0.mlp",))
    metrics = tuple(Objective(f"task{t}.loss", "minimize") for t in range(objectives))
    optimizer = factory(kind, schedule)((gene,), metrics, 4, 1, ())
    found = []
    while batch := optimizer.ask():
        numbers = list(range(len(found), len(found) + len(batch)))
        values = [tuple((x - aim) ** 2 for aim in (0.2, 0.9)[:objectives]) for (x,) in batch]
        optimizer.tell([Complete(each, (0.0,) * objectives) for each in values], numbers)
        found += batch
    assert len(found) == len(set(found)) == 16
