"""Back-off by an injected clock: no test here waits for anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.run.safeguards import BACK_OFF_MOST, BackOff, back_off_seconds
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
