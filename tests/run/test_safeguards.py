"""Back-off by an injected clock: no test here waits for anything."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.ledger.candidate import Candidate
from evomerge.ledger.events import PreparedEvaluator, PreparedEvent, PreparedLayout
from evomerge.ledger.history import History
from evomerge.run.safeguards import (
    BACK_OFF_MOST,
    BackOff,
    back_off_seconds,
    deadline_seconds,
    too_many_failures,
)
from tests.clocks import PlayedClock


def test_waits_grow_up_to_a_limit() -> None:
    assert [back_off_seconds(n) for n in range(1, 7)] == [1.0, 3.0, 9.0, 27.0, 30.0, 30.0]


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 20)), max_size=12))
def test_each_is_given_back_once_and_never_before_its_time(puts: list[tuple[int, float]]) -> None:
    """Items arrive some time apart, and are asked for each time the earliest should be due."""
    time = PlayedClock()
    held: BackOff[int] = BackOff(time.clock)
    due: dict[int, float] = {}
    given_back: list[int] = []
    for number, (requeued, apart) in enumerate(puts):
        held.put(number, requeued)
        due[number] = time.now() + min(3.0 ** (requeued - 1), BACK_OFF_MOST)
        time.sleep(apart)
        given_back += held.take_due()
        assert set(given_back) == {n for n, when in due.items() if when <= time.now()}
    while (seconds := held.seconds()) < float("inf"):
        time.sleep(seconds)
        found = held.take_due()
        assert all(due[number] <= time.now() for number in found)
        given_back += found
    assert sorted(given_back) == list(range(len(puts)))
    assert held.take_all() == []


def settled(*failures: str, scored: int = 0) -> History:
    """A history of so many scored candidates and of failures of these classes."""
    last = Candidate("c00007", "recipe", failure=failures[-1], message="NaN in T") if failures else None
    return History(settled=scored + len(failures), failed_kinds=Counter(failures), last_failure=last)


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        (settled(*["oom"] * 7), False),
        (settled(*["oom"] * 8), True),
        (settled(*["oom"] * 7, "nan"), False),
        (settled(*["oom"] * 8, scored=1), False),
        (settled(*["oom"] * 5, scored=5), False),
        (settled(*["oom"] * 3, *["nan"] * 3, scored=4), True),
        (settled(scored=20), False),
    ],
    ids=str,
)
def test_a_campaign_stops_where_eight_fail_alike_or_more_than_half_of_ten(
    history: History, stops: bool
) -> None:
    found = too_many_failures(history)
    assert (found is not None) == stops
    if found is not None:
        assert f"{sum(history.failed_kinds.values())} of {history.settled} candidates failed" in str(
            found
        )
        assert "NaN in T" in str(found)


def test_a_deadline_is_stated_or_follows_the_slowest_baseline() -> None:
    assert deadline_seconds(5.0, History(slowest_baseline=100.0)) == 5.0
    assert deadline_seconds(None, History(slowest_baseline=100.0)) is None
    assert deadline_seconds("auto", History()) is None
    assert deadline_seconds("auto", History(slowest_baseline=100.0)) == 400.0
    assert deadline_seconds("auto", History(slowest_baseline=0.2)) == 60.0


def test_a_split_of_more_items_has_more_time() -> None:
    """All models that are scored on selection items would be killed where these are many."""
    history = History(slowest_baseline=100.0)
    evaluators = {
        name: PreparedEvaluator(digest="", metrics=(), items=items, deterministic=True)
        for name, items in {
            "a": {"search": 10, "selection": 80, "test": 5},
            "b": {"search": 40, "selection": 40, "test": 40},
        }.items()
    }
    layout = PreparedLayout(layers=1, places=(), parameters=0)
    parts = {"checkpoints": {}, "storage": "bfloat16", "layout": layout, "evaluators": evaluators}
    history.apply(PreparedEvent(**parts))
    assert deadline_seconds("auto", history) == deadline_seconds("auto", history, "test") == 400.0
    assert deadline_seconds("auto", history, "selection") == 3200.0
    assert deadline_seconds(5.0, history, "selection") == 5.0


def test_who_was_due_first_comes_first() -> None:
    time = PlayedClock()
    held: BackOff[str] = BackOff(time.clock)
    held.put("late", 3)
    held.put("early", 1)
    held.put("between", 2)
    time.sleep(60.0)
    assert held.take_due() == ["early", "between", "late"]
