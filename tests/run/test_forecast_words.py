"""What is said of a forecast, and of the plateau at which a search ended; and when nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli.seen import Seen
from evomerge.cli.status_rows import status_rows
from evomerge.ledger.events import Event, StoppedEvent
from evomerge.ledger.history import History
from evomerge.objectives.forecast import Forecast
from evomerge.run.limits import ENDED, Ahead, ahead, ahead_text, ended_text, plateau_text
from evomerge.run.standing import ended_words, standing
from tests.hand_made import asked, begin, searched_in_turn


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            Ahead(8, 0.0405, 0.0304, 0.0762, "the hypervolume"),
            "the last 8 candidates asked were expected to add 4.05 % of the hypervolume, 3.04 to 7.62 %",
        ),
        (
            Ahead(1, 0.45678, 0.0, 1.77824, "the hypervolume near the focus", 0.02),
            "the last candidate asked was expected to add 45.7 % of the hypervolume near the focus, "
            "0 to 177.8 %; the search ends once the upper end is below 2 %",
        ),
        (
            Ahead(9, 0.004, 0.0010001, None, "the hypervolume in the region", 0.02),
            "the last 9 candidates asked were expected to add 0.4 % of the hypervolume in the region, "
            "0.1 % or more; what the search may go on to has no model yet",
        ),
    ],
)
def test_a_forecast_in_words(found: Ahead, text: str) -> None:
    assert ahead_text(found) == text


def by_hand(*forecasts: Forecast | None, plateau: float | None = 0.02, **optimizer: Any) -> list[Event]:
    """A search in batches of two, of which four are a population, as far as it has asked."""
    stated = {"kind": "surrogate", "population": 4, "schedule": "generational", **optimizer}
    limits = {"evaluations": 20, "plateau": plateau}
    more = {"constraints": [], "experts": ["math"], "baselines": {"single": []}, "search_space": {}}
    events = begin(optimizer=stated, budget=limits, **more)
    for number, forecast in enumerate(forecasts):
        names = f"c{2 * number:05d}", f"c{2 * number + 1:05d}"
        events.append(replace(asked(number, *names), forecast=forecast))
    return events


ONE, OTHER = Forecast("genes", 0.01, 0.002, 0.03), Forecast("genes", 0.02, 0.003, 0.05)
FEW = Forecast("genes", 0.002, 0.001, 0.004)


def test_what_is_ahead_is_that_of_the_last_population() -> None:
    fold = History.fold
    assert ahead(fold(by_hand())) is ahead(fold(by_hand(ONE))) is None, "too few"
    assert ahead(fold(by_hand(ONE, None))) is ahead(fold(by_hand(ONE, Forecast("map")))) is None
    found = ahead(fold(by_hand(FEW, ONE, OTHER)))
    assert found == Ahead(4, pytest.approx(0.03), 0.005, 0.08, "the hypervolume", 0.02)
    found = ahead(fold(by_hand(FEW, replace(ONE, high=None), OTHER)))
    assert found is not None
    assert (found.candidates, found.high, found.low) == (4, None, 0.005)
    of = [ahead(fold(by_hand(ONE, OTHER, focus=focus))) for focus in ("knee", "a>=0.5")]
    assert [each and each.of for each in of] == [
        "the hypervolume near the focus",
        "the hypervolume in the region",
    ]


def test_no_plateau_is_named_that_nothing_is_compared_with() -> None:
    """None stated, another rule, or one that what came of it contradicts: it was changed since."""
    stop = StoppedEvent(reason="plateau")

    def named(events: list[Event]) -> float | None:
        found = ahead(History.fold(events))
        assert found is not None
        return found.plateau

    assert named(by_hand(ONE, OTHER)) == named([*by_hand(FEW, FEW), stop]) == 0.02
    assert named(by_hand(ONE, OTHER, plateau=None)) is None
    assert named(by_hand(ONE, OTHER, kind="mine")) is None
    assert named(by_hand(FEW, FEW)) is named([*by_hand(ONE, OTHER), stop]) is None


def test_a_plateau_says_what_was_compared_with_it() -> None:
    stop = StoppedEvent(reason="plateau")
    few = "the last 4 candidates asked were expected to add 0.4 % of the hypervolume, 0.2 to 0.8 %"
    ended = History.fold([*by_hand(FEW, FEW), stop])
    assert plateau_text(ended) == f"{few}; the search ends once the upper end is below 2 %"
    assert ended_text("plateau", plateau=plateau_text(ended)) == f"a plateau: {plateau_text(ended)}"
    now = standing(ended, budget=None)
    assert now.plateau == plateau_text(ended)
    assert ended_words(now) == [f"ended by a plateau: {plateau_text(ended)}"]
    rows = dict(status_rows(Seen(Path("run"), now, None, 0.0)))
    assert rows["ended by"] == f"a plateau: {plateau_text(ended)}"
    assert "forecast" not in rows, "said once"
    assert plateau_text(History.fold(by_hand(FEW, FEW))) == ""
    # Nothing is known of it.
    assert plateau_text(History.fold([*by_hand(None, None), stop])) == ""
    assert ended_text("plateau") == ENDED["plateau"]


def test_without_a_model_a_plateau_says_what_was_gained() -> None:
    points = [(0.6, 0.6), (0.5, 0.5), (0.5, 0.4), (0.4, 0.5)]
    events = searched_in_turn({"kind": "nsga2", "population": 1}, points)
    ended = History.fold([*events, StoppedEvent(reason="plateau")])
    assert plateau_text(ended) == (
        "the last 2 candidates told added 0 % of the hypervolume; the search ends once that is below 2 %"
    )
