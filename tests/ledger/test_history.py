"""Folding events by hand: what counts, what is remembered and what is forgotten."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np

from evomerge.ledger.events import (
    AskedCandidate,
    AskedEvent,
    EvaluatedEvent,
    LostEvent,
    PreparedEvaluator,
    RacedEvent,
    SelectionEvent,
    StoppedEvent,
    ToldEvent,
)
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemReference
from evomerge.objectives.objective import Scaling
from evomerge.objectives.scores import Metric, Split
from tests.hand_made import asked, begin, failed, scored

ONE = {"a.acc": [1.0, 0.0], "b.acc": [1.0, 1.0]}


def test_an_empty_ledger_is_an_empty_history() -> None:
    history = History.fold([])
    assert history.campaign is None
    assert history.scaling is None
    assert history.budget_used == 0
    assert history.reference_ids() == []
    assert history.searched() == []


def test_a_campaign_by_hand() -> None:
    history = History.fold(
        [
            *begin(),
            asked(0, "c00000", "c00001", "c00002"),
            scored("c00001", ONE, statistics={"tensors": 3.0}),
            failed("c00000"),
            scored("c00002", ONE, same_as="base", key="key-base-search"),
            ToldEvent(generation=0, state="s0", time=200.0, elapsed=55.5),
            asked(1, "c00003"),
        ]
    )
    assert history.scaling == Scaling((-0.8, -0.8), (-0.2, -0.2))
    assert history.generations == [("c00000", "c00001", "c00002"), ("c00003",)]
    assert history.tells == 1
    assert history.budget_used == 2  # one scored, one failed; the repeat of a baseline is free
    assert history.failures() == {"nonfinite_weights": 1}
    assert [c.id for c in history.searched()] == ["c00001", "c00002"]
    assert history.reference_ids() == ["base", "math"]
    first = history.candidates["c00000"]
    assert (first.failure, first.message, first.is_settled) == ("nonfinite_weights", "layer 3", True)
    assert not history.candidates["c00003"].is_settled
    assert history.candidates["c00003"].genome == (3.0,)
    assert history.candidates["base"].is_baseline
    assert not history.candidates["c00001"].is_baseline
    known = history.first_scored("key-base-search")
    assert known == ("base", history.candidates["base"].evaluations["search"])
    assert history.first_scored("key") is None
    assert (history.started, history.last, history.elapsed) == (100.0, 200.0, 55.5)


def test_equal_merges_that_fail_together_are_counted_once() -> None:
    history = History.fold(
        [*begin(), asked(0, "c00000", "c00001"), failed("c00000"), failed("c00001", same_as="c00000")]
    )
    assert history.budget_used == 1
    assert history.failures() == {"nonfinite_weights": 2}


def test_a_failure_on_held_out_items_takes_nothing_back() -> None:
    events = [*begin(), asked(0, "c00000"), scored("c00000", ONE), failed("c00000", "selection")]
    candidate = History.fold(events).candidates["c00000"]
    assert candidate.failure is None
    assert candidate.failed_splits == {"selection"}
    assert "search" in candidate.evaluations


def test_a_baseline_that_failed_may_be_scored_later() -> None:
    history = History.fold([failed("base"), scored("base", ONE)])
    assert history.candidates["base"].failure is None
    assert history.candidates["base"].failed_splits == frozenset()
    assert history.failures() == {}


def test_lost_workers_are_counted_by_split_and_forgotten_with_a_result() -> None:
    def lost(split: Split) -> LostEvent:
        return LostEvent(id="c00000", recipe="r", split=split, failure="worker_died")

    events = [*begin(), asked(0, "c00000"), lost("search")]
    assert History.fold(events).candidates["c00000"].lost == {"search": 1}
    events += [scored("c00000", ONE), lost("selection")]
    candidate = History.fold(events).candidates["c00000"]
    assert candidate.lost == {"selection": 1}
    assert candidate.attempts_lost == 2


def test_a_selection_holds_until_the_search_goes_on() -> None:
    done = [*begin(), asked(0, "c00000", "c00001"), scored("c00000", ONE)]
    done += [SelectionEvent(ids=("c00000",)), scored("c00000", ONE, "selection")]
    assert History.fold(done).selection == ("c00000",)
    assert History.fold([*done, failed("c00000", "selection")]).selection == ("c00000",)
    # A larger budget finishes the generation first, and that is enough for a new selection.
    assert History.fold([*done, scored("c00001", ONE)]).selection is None
    assert History.fold([*done, failed("c00001")]).selection is None
    assert History.fold([*done, asked(1, "c00002")]).selection is None


def test_why_a_session_ended_is_known_until_it_goes_on() -> None:
    stopped = [*begin(), StoppedEvent(reason="hours")]
    assert History.fold(stopped).stopped == "hours"
    assert History.fold([*stopped, SelectionEvent(ids=())]).stopped == "hours"
    assert History.fold([*stopped, asked(0, "c00000")]).stopped is None


def test_the_first_result_of_a_key_is_the_one_that_stays() -> None:
    history = History.fold([scored("base", ONE, key="k"), scored("math", ONE, key="k")])
    known = history.first_scored("k")
    assert known is not None
    assert known[0] == "base"


def test_the_slowest_baseline_is_known_whatever_came_last() -> None:
    seconds = {"base": 2.0, "math": 9.0, "code": 3.0}
    events = [scored(name, ONE, seconds={"merge": 1.0, "evaluate": s}) for name, s in seconds.items()]
    history = History.fold(
        [*events, asked(0, "c00000"), scored("c00000", ONE, seconds={"merge": 50.0})]
    )
    assert history.slowest_baseline == 10.0


def test_what_was_mended_has_failed_no_more() -> None:
    history = History.fold([failed("base"), failed("math")])
    assert set(history.failed_by_key) == {"key-base-search", "key-math-search"}
    history.apply(scored("base", ONE))
    assert set(history.failed_by_key) == {"key-math-search"}


def test_a_raced_candidate_costs_its_share_of_the_items() -> None:
    first, prepared, *rest = begin()
    sizes = {"a": 12, "b": 8}
    evaluators = {
        name: PreparedEvaluator(digest="", metrics=(), items={"search": count}, deterministic=True)
        for name, count in sizes.items()
    }
    prepared = replace(prepared, evaluators=evaluators)
    lost = RacedEvent(**vars(scored("c00001", ONE)), beaten_by="c00000", seen={"a": 4, "b": 1})
    history = History.fold(
        [
            *(first, prepared, *rest, asked(0, "c00000", "c00001"), scored("c00000", ONE)),
            lost,
        ]
    )
    assert history.budget_used == 2
    assert history.cost == 1 + 5 / 20


def test_an_evaluation_of_500_random_genes_takes_less_than_two_kilobytes() -> None:
    rng, history, names = np.random.default_rng(0), History.fold(begin()), ("a", "b", "c")

    def digest() -> str:
        return rng.bytes(32).hex()

    def evaluate(generation: int, genomes: np.ndarray) -> None:
        asked = tuple(
            AskedCandidate(id=f"c{generation:05d}{n:03d}", genome=tuple(genome), recipe=digest())
            for n, genome in enumerate(genomes.tolist())
        )
        history.apply(AskedEvent(generation=generation, candidates=asked))
        for one in asked:
            metrics = {f"{each}.acc": Metric(float(rng.random()), 0.1, 500) for each in names}
            items = {each: ItemReference(f"{each}.bin", generation, 900, digest()) for each in names}
            seconds = {"merge": 0.1, "evaluate": 1.0}
            result = {"id": one.id, "recipe": one.recipe, "key": digest(), "seconds": seconds}
            history.apply(EvaluatedEvent(**result, metrics=metrics, items=items))  # type: ignore[arg-type]
        history.apply(ToldEvent(generation=generation, state=digest()))

    # The list of all numbers that genes have is no evaluation's.
    evaluate(0, np.arange(1500).reshape(3, 500) / 1000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for generation in range(1, 51):
        evaluate(generation, rng.integers(0, 1500, (20, 500)) / 1000)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    count = 50 * 20
    assert taken / count < 2048
