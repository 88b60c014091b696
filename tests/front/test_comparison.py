"""Two models side by side, on results made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import UsageError
from evomerge.front.comparison import compare
from evomerge.ledger.events import SelectionEvent
from evomerge.ledger.history import History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Objective
from tests.hand_made import asked, begin, failed, scored

A = {"a.acc": [1, 1, 1, 0, 0, 1, 1, 1], "b.acc": [0, 1, 0, 1, 0, 1, 0, 1]}
B = {"a.acc": [0, 1, 1, 1, 0, 0, 0, 0], "b.acc": [0, 1, 0, 1, 0, 1, 0, 1]}
OBJECTIVES = (Objective("a.acc", "maximize"), Objective("b.acc", "maximize"))


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    return ItemStore(tmp_path)


def history_of(store: ItemStore | None) -> History:
    events = [*begin(), asked(0, "c00000", "c00001", "c00002")]
    events += [scored("c00000", A, store=store), scored("c00001", B, store=store), failed("c00002")]
    return History.fold(events)


def test_items_won_and_lost_and_how_sure(store: ItemStore) -> None:
    known = history_of(store).candidates
    found = compare(history_of(store), store, OBJECTIVES, known["c00000"], known["c00001"])
    first, second = found.tasks
    assert (first.won, first.lost) == ((0, 5, 6, 7), (3,))
    assert (second.won, second.lost) == ((), ())
    assert first.difference is not None
    assert first.difference.difference == pytest.approx(3 / 8)
    assert 0.8 < first.probability_better < 1
    assert second.probability_better == 0.0
    assert found.mean is not None
    assert found.mean.difference == pytest.approx(3 / 16)
    other = compare(history_of(store), store, OBJECTIVES, known["c00001"], known["c00000"])
    assert (other.tasks[0].won, other.tasks[0].lost) == ((3,), (0, 5, 6, 7))
    assert other.tasks[0].probability_better < 0.1
    assert found.to_json()["tasks"][0]["won"] == [0, 5, 6, 7]


def test_less_is_better_where_an_objective_says_so(store: ItemStore) -> None:
    known = history_of(store).candidates
    loss = (Objective("a.acc", "minimize"),)
    found = compare(history_of(store), store, loss, known["c00000"], known["c00001"])
    assert found.tasks[0].won == (3,)
    assert found.tasks[0].probability_better < 0.1
    assert found.mean is None
    equal = (Objective("b.acc", "minimize"),)
    found = compare(history_of(store), store, equal, known["c00000"], known["c00001"])
    assert found.tasks[0].probability_better == 0.0, "equal is not better"


def test_metrics_of_the_same_items_are_no_independent_evidence(store: ItemStore) -> None:
    events = [*begin(), asked(0, "c00000", "c00001")]
    for name, rows in (("c00000", A), ("c00001", B)):
        twice = {"a.acc": rows["a.acc"], "a.exact_match": rows["a.acc"]}
        events.append(scored(name, twice, store=store))
    known = History.fold(events).candidates
    objectives = (Objective("a.acc", "maximize"), Objective("a.exact_match", "maximize"))
    found = compare(History.fold(events), store, objectives, known["c00000"], known["c00001"])
    assert found.mean == found.tasks[0].difference, "twice the same says no more than once"


def test_held_out_items_decide_where_both_have_them(store: ItemStore) -> None:
    history = history_of(store)
    history.apply(SelectionEvent(ids=("c00000",)))
    history.apply(scored("c00000", B, "selection", store))
    known = history.candidates
    found = compare(history, store, OBJECTIVES, known["c00000"], known["c00001"])
    assert found.split == "search"
    history.apply(scored("c00001", A, "selection", store))
    found = compare(history, store, OBJECTIVES, known["c00000"], known["c00001"])
    assert (found.split, found.tasks[0].won) == ("selection", (3,))


def test_without_per_item_results_there_are_scores_alone(store: ItemStore) -> None:
    history = history_of(None)
    known = history.candidates
    found = compare(history, store, OBJECTIVES, known["c00000"], known["c00001"])
    assert (found.tasks[0].won, found.tasks[0].probability_better, found.mean) == (None, None, None)
    assert found.tasks[0].a.value == pytest.approx(6 / 8)


def test_what_has_no_scores_cannot_be_compared(store: ItemStore) -> None:
    history = history_of(store)
    known = history.candidates
    words = r"E507.*`c00002` has no whole scores to compare; nonfinite_weights"
    with pytest.raises(UsageError, match=words):
        compare(history, store, OBJECTIVES, known["c00000"], known["c00002"])
