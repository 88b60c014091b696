"""What every optimizer must do, as functions that a test calls with a factory.

Usage, in a test of your own::

    from evomerge.testing.optimizers import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(my_factory)

A factory takes (genes, objectives, population, seed, initial) and gives an optimizer; `STEADY_CHECKS`
are for factories of the steady-state schedule. Checks raise AssertionError with what was expected. They
use nothing but the standard library and evomerge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from evomerge.objectives.objective import Complete, Failed, Objective, Outcome, Raced
from evomerge.optimizers.optimizer import Optimizer
from evomerge.search_space import Gene, Genome

Factory = Callable[[Sequence[Gene], Sequence[Objective], int, int, Sequence[Genome]], Optimizer]

POPULATION = 12
OBJECTIVES = (Objective("a.acc", "maximize"), Objective("b.loss", "minimize"))


def example_genes(layers: int = 4, step: float = 1e-3) -> tuple[Gene, ...]:
    """Weights of two experts over embeddings, some layers and head, and one shared density."""
    places = ["embed", *(f"layers.{layer}.mlp" for layer in range(layers)), "head"]
    weights = [
        Gene(f"weight.{expert}.{place}", -0.3, 1.5, step, "weight", expert, (place,))
        for expert in ("math", "code")
        for place in places
    ]
    return (*weights, Gene("density", 0.05, 1.0, step, "density", "*", tuple(places)))


def example_outcome(genome: Genome) -> Complete:
    """Two smooth values in conflict, decided by the genome alone."""
    near = math.fsum((value - 0.2) ** 2 for value in genome)
    far = math.fsum((value - 0.9) ** 2 for value in genome)
    return Complete((near, far), (0.0, 0.0))


def run(optimizer: Optimizer, generations: int) -> list[list[Genome]]:
    """Ask and tell so many times with `example_outcome`; the batches asked."""
    batches = []
    for _ in range(generations):
        batch = optimizer.ask()
        batches.append(batch)
        optimizer.tell([example_outcome(genome) for genome in batch])
    return batches


def _make(factory: Factory, seed: int = 7, initial: Sequence[Genome] = ()) -> Optimizer:
    return factory(example_genes(), OBJECTIVES, POPULATION, seed, initial)


def _raises(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    try:
        call()
    except kind as error:
        if not str(error):
            raise AssertionError(f"{what}: the {kind.__name__} has no words") from error
        return
    raise AssertionError(f"{what}: expected {kind.__name__}")


def check_order(factory: Factory) -> None:
    """Calls out of turn and wrong numbers of outcomes are refused in words, and harm nothing."""
    optimizer, other = _make(factory), _make(factory)
    _raises(RuntimeError, lambda: optimizer.tell([]), "tell before the first ask")
    batch = optimizer.ask()
    outcomes: list[Outcome] = [example_outcome(genome) for genome in batch]
    _raises(RuntimeError, optimizer.ask, "a second ask before tell")
    _raises(RuntimeError, lambda: optimizer.tell(outcomes[:-1]), "too few outcomes")
    _raises(RuntimeError, lambda: optimizer.tell([*outcomes, outcomes[0]]), "too many outcomes")
    optimizer.tell(outcomes)
    _raises(RuntimeError, lambda: optimizer.tell(outcomes), "a second tell")
    run(other, 1)
    assert optimizer.ask() == other.ask(), "a refused call changed what is asked next"


def check_replay(factory: Factory) -> None:
    """Same seed and outcomes: bit-identical asks and digests; another seed: other asks."""
    one, two = _make(factory), _make(factory)
    for generation in range(6):
        assert run(one, 1) == run(two, 1), f"generation {generation} is asked otherwise on replay"
        assert one.state_digest() == two.state_digest(), f"digests differ after {generation}"
    assert run(_make(factory, seed=8), 3) != run(_make(factory), 3), "the seed changes nothing"


def check_digest(factory: Factory) -> None:
    """The digest changes with every ask and tell, and depends on what was told."""
    one, two = _make(factory), _make(factory)
    seen = [one.state_digest()]
    for _ in range(3):
        batch = one.ask()
        seen.append(one.state_digest())
        one.tell([example_outcome(genome) for genome in batch])
        seen.append(one.state_digest())
    assert len(set(seen)) == len(seen), "an ask or tell left the digest as it was"
    assert one.state_digest() == seen[-1], "reading the digest changes it"
    batch = two.ask()
    told = [example_outcome(genome) for genome in batch]
    best = min(range(len(told)), key=lambda index: told[index].values[0])
    first, second = told[best].values
    told[best] = Complete((first - 1.0, second), (0.0, 0.0))
    two.tell(told)
    assert two.state_digest() != seen[2], "the digest does not depend on the values told"


def check_grid(factory: Factory) -> None:
    """Every value is a Python float on its gene's grid and within its bounds."""
    genes = example_genes(step=0.05)
    optimizer = factory(genes, OBJECTIVES, POPULATION, 3, ())
    for batch in run(optimizer, 8):
        for genome in batch:
            assert isinstance(genome, tuple), "a genome is a tuple"
            for gene, value in zip(genes, genome, strict=True):
                assert type(value) is float, f"{gene.name}: {value!r} is no Python float"
                assert gene.low <= value <= gene.high, f"{gene.name}: {value} is out of bounds"
                assert value == gene.snap(value), f"{gene.name}: {value} is off the grid"


def check_no_repeats(factory: Factory) -> None:
    """No genome is asked twice, even when few are left; then the batch is empty, not an error."""
    genes = tuple(
        Gene(f"weight.{expert}", 0.0, 1.0, 0.25, "weight", expert, ("embed",)) for expert in "abc"
    )
    optimizer = factory(genes, OBJECTIVES, POPULATION, 5, ())
    asked: list[Genome] = []
    for _ in range(5**3):
        batch = optimizer.ask()
        if not batch:
            break
        asked += batch
        optimizer.tell([example_outcome(genome) for genome in batch])
    assert len(set(asked)) == len(asked), "a genome was asked twice"
    assert len(asked) == 5**3, f"asked {len(asked)} of 125 genomes before giving up"
    seen = [genome for batch in run(_make(factory), 15) for genome in batch]
    assert len(set(seen)) == len(seen), "a genome was asked twice in a large space"


def check_initial(factory: Factory) -> None:
    """Given genomes are asked first, snapped, once each, and all of them even if they are many."""
    genes = example_genes()
    raw = [tuple(0.01 * i + 0.0004 for _ in genes) for i in range(POPULATION + 3)]
    snapped = [tuple(g.snap(v) for g, v in zip(genes, genome, strict=True)) for genome in raw]
    few = _make(factory, initial=[*raw[:3], raw[0]]).ask()
    assert few[:3] == snapped[:3], "the given genomes do not come first"
    assert len(few) == len(set(few)) == POPULATION, "the first batch is not filled up to population"
    many = _make(factory, initial=raw).ask()
    assert many[: len(raw)] == snapped, "not all given genomes are in the first batch"


def check_failures(factory: Factory) -> None:
    """Failed and raced candidates do not stop a search, alone or among others, nor pass as values."""
    optimizer = _make(factory)
    for kind in (Failed("nonfinite_weights"), Raced(8, (0.0, 0.0))):
        batch = optimizer.ask()
        optimizer.tell([kind] * len(batch))
        assert len(optimizer.ask()) == POPULATION, f"no batch after a generation of {kind}"
        optimizer.tell([kind] * POPULATION)
    for generation in range(5):
        batch = optimizer.ask()
        assert len(batch) == POPULATION, f"generation {generation} has {len(batch)} candidates"
        outcomes: list[Outcome] = [example_outcome(genome) for genome in batch]
        outcomes[::4] = [Failed("timeout")] * len(outcomes[::4])
        outcomes[1::4] = [Raced(8, (-9.0, -9.0))] * len(outcomes[1::4])
        optimizer.tell(outcomes)


def check_failures_have_no_degree(factory: Factory) -> None:
    """What a failure is called, and what bound a raced candidate had, changes no later ask."""
    asks = []
    kinds: tuple[tuple[Outcome, Outcome], ...] = (
        (Failed("timeout"), Raced(8, (-99.0, -99.0))),
        (Failed("nonfinite_weights"), Raced(64, (99.0, 99.0))),
    )
    for failed, raced in kinds:
        optimizer = _make(factory)
        for _ in range(4):
            batch = optimizer.ask()
            outcomes: list[Outcome] = [example_outcome(genome) for genome in batch]
            outcomes[1], outcomes[4] = failed, raced
            optimizer.tell(outcomes)
        asks.append(optimizer.ask())
    assert asks[0] == asks[1], "a failure's class or a raced bound steers the search"


def check_bad_values(factory: Factory) -> None:
    """NaN, infinities and a wrong number of values are refused; telling anew then works."""
    optimizer, other = _make(factory), _make(factory)
    batch = optimizer.ask()
    good: list[Outcome] = [example_outcome(genome) for genome in batch]
    bad: list[Outcome] = [
        Complete((math.nan, 0.0), (0.0, 0.0)),
        Complete((0.0, math.inf), (0.0, 0.0)),
        Complete((0.0, 0.0), (0.0, 0.0), violations=(math.nan,)),
        Complete((0.0,), (0.0,)),
        Raced(3, (math.nan, 0.0)),
    ]
    for outcome in bad:
        told = [*good[:-1], outcome]
        _raises(ValueError, lambda told=told: optimizer.tell(told), str(outcome))  # type: ignore[misc]
    optimizer.tell(good)
    run(other, 1)
    assert optimizer.ask() == other.ask(), "a refused tell changed what is asked next"


CHECKS: tuple[Callable[[Factory], None], ...] = (
    check_order,
    check_replay,
    check_digest,
    check_grid,
    check_no_repeats,
    check_initial,
    check_failures,
    check_failures_have_no_degree,
    check_bad_values,
)
"""All checks; each takes a factory."""


def check_steady_order(factory: Factory) -> None:
    """One candidate an ask, any number pending, told by number in any order, each once."""
    optimizer, other = _make(factory), _make(factory)
    _raises(RuntimeError, lambda: optimizer.tell([]), "tell before the first ask")
    genomes = [genome for _ in range(5) for genome in optimizer.ask()]
    assert len(set(genomes)) == 5, "five asks are five candidates, also while all are pending"
    told: list[Outcome] = [example_outcome(genome) for genome in genomes]
    _raises(RuntimeError, lambda: optimizer.tell(told[:1], [5]), "a number that was not asked")
    _raises(RuntimeError, lambda: optimizer.tell(told[:2], [1, 1]), "a number twice")
    _raises(RuntimeError, lambda: optimizer.tell(told[:1], [1, 2]), "too few outcomes")
    for number in (3, 0, 4):
        optimizer.tell([told[number]], [number])
    _raises(RuntimeError, lambda: optimizer.tell(told[3:4], [3]), "a second tell")
    assert [genome for _ in range(5) for genome in other.ask()] == genomes
    for number in (3, 0, 4):
        other.tell([told[number]], [number])
    assert optimizer.state_digest() == other.state_digest(), "a refused call changed the state"
    assert optimizer.ask() == other.ask(), "a refused call changed what is asked next"


def check_steady_replay(factory: Factory) -> None:
    """The same asks and tells in the same order give the same asks and digests, failures among them."""
    digests = []
    for _ in range(2):
        optimizer = _make(factory)
        pending: list[tuple[int, Genome]] = []
        seen = []
        for step in range(6 * POPULATION):
            pending += [(step, genome) for genome in optimizer.ask()]
            if step % 3:
                number, genome = pending.pop(step * 7 % len(pending))
                failed = number % 5 == 0
                optimizer.tell([Failed("deadline") if failed else example_outcome(genome)], [number])
            seen.append(optimizer.state_digest())
        digests.append(seen)
    assert digests[0] == digests[1], "a replay comes to another state"
    assert len(set(digests[0])) == len(digests[0]), "an ask or tell left the digest as it was"


STEADY_CHECKS: tuple[Callable[[Factory], None], ...] = (
    check_steady_order,
    check_steady_replay,
    check_replay,
    check_digest,
    check_grid,
    check_no_repeats,
)
"""All checks of the steady-state schedule."""
