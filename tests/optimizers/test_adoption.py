"""A replay adopts what is on record: nothing is worked out again, and the search goes on as before."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers import cma_es, gaussian
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.optimizer import AdoptingOptimizer
from evomerge.testing.optimizers import OBJECTIVES, example_genes, example_outcome
from tests.optimizers.few_points import few_points  # noqa: F401

pytestmark = pytest.mark.usefixtures("few_points")

KINDS = {
    "surrogate": {"start": 8, "generations": 3, "inner_population": 8, "reuse": 4},
    "auto": {"generations": 3, "inner_population": 8, "reuse": 4},
    "learned-front": {},
    "mmmo": {},
    "cma-es": {"weights": 3},
    "optuna": {"sampler": "nsga3"},
}


def made(kind, schedule):
    return make_optimizer(
        kind,
        example_genes(),
        OBJECTIVES,
        population=6,
        seed=4,
        initial=[tuple(0.5 for _ in example_genes())],
        settings=optimizer_settings(kind, KINDS[kind]),
        schedule=schedule,
    )


def outcome(number, genome):
    """Mostly scores; some broken bounds, failures and races among them."""
    found = example_outcome(genome)
    if number % 11 == 5:
        return Failed("timeout")
    if number % 11 == 7:
        return Raced(8, (0.0, 0.0))
    return Complete(found.values, found.errors, (genome[0] - 0.7,))


def undisturbed(kind, schedule, asks):
    """Every ask as (genomes, notes, forecast), and what was told after it as (outcomes, numbers, state)."""
    optimizer, log, open_, count = made(kind, schedule), [], [], 0
    for turn in range(asks):
        genomes = optimizer.ask()
        kept = optimizer.notes(genomes), optimizer.forecast()
        open_ += list(enumerate(genomes, count))
        count += len(genomes)
        told = []
        if schedule == "generational":
            told, open_ = open_, []
        elif turn % 5 != 1:  # so that several are pending
            told = [open_.pop(turn * 7 % len(open_))]
        outcomes = [outcome(number, genome) for number, genome in told]
        numbers = [number for number, _ in told]
        if told:
            optimizer.tell(outcomes, numbers)
        log.append((genomes, kept, outcomes, numbers, optimizer.state_digest()))
    return log


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize("kind", KINDS)
def test_whenever_it_is_resumed_it_asks_what_it_would_have_asked(kind, schedule, monkeypatch):
    asks = 8 if schedule == "generational" else 34
    log = undisturbed(kind, schedule, asks)
    for cut in (asks - 1, asks - 2, asks - 3, asks // 2):
        fits = []
        with monkeypatch.context() as patched:
            patched.setattr(gaussian, "fit", lambda *_, fits=fits: fits.append(1))
            optimizer = made(kind, schedule)
            assert isinstance(optimizer, AdoptingOptimizer)
            for genomes, kept, outcomes, numbers, state in log[:cut]:
                optimizer.adopt(genomes, *kept)
                assert optimizer.forecast() == kept[1]
                if numbers:
                    optimizer.tell(outcomes, numbers)
                assert optimizer.state_digest() == state
        assert not fits, "a model was fitted in a replay"
        assert optimizer.ask() == log[cut][0]


def test_adopting_out_of_turn_is_refused():
    optimizer = made("surrogate", "generational")
    batch = optimizer.ask()
    with pytest.raises(RuntimeError, match=r"ask\(\) again before tell\(\)"):
        optimizer.adopt(batch, [None] * len(batch))


def test_a_strategy_whose_numbers_round_otherwise_goes_on_with_what_is_on_record(monkeypatch):
    """Each offer is a little off in the replay: the recorded genomes still belong to their strategies."""
    log = undisturbed("cma-es", "generational", 6)
    plain = cma_es.CmaEs._next

    def off(self):
        offer = plain(self)
        strategy = self._offered.pop(tuple(offer.tolist()))
        shifted = np.clip(offer + 4e-4, 0.0, 1.0)
        self._offered[tuple(shifted.tolist())] = strategy
        return shifted

    monkeypatch.setattr(cma_es.CmaEs, "_next", off)
    optimizer = made("cma-es", "generational")
    differed = 0
    for genomes, kept, outcomes, numbers, state in log:
        optimizer.adopt(genomes, *kept)
        optimizer.tell(outcomes, numbers)
        assert optimizer.state_digest() == state
        owners = [optimizer._propose._owner.get(genome) for genome in genomes]
        differed += sum(owner is None for owner in owners)
    assert differed <= len(log), "recorded genomes lost the strategy that asked for them"


@pytest.mark.parametrize("kind", ["nsga2", "random"])
def test_others_are_asked_again(kind):
    optimizer = make_optimizer(kind, example_genes(), OBJECTIVES, population=6, seed=4)
    assert not isinstance(optimizer, AdoptingOptimizer)
