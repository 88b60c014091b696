"""Whose a session was, what ended it, and whose hours it took: by hand, as new and old ledgers have it."""

from __future__ import annotations

from dataclasses import replace

from evomerge.ledger.events import (
    AskedEvent,
    Event,
    GrantedEvent,
    RefineEvent,
    SelectionEvent,
    StoppedEvent,
    ToldEvent,
)
from evomerge.ledger.history import History
from tests.hand_made import asked, begin, scored

ONE = {"a.acc": [1.0, 0.0], "b.acc": [1.0, 1.0]}
REFINE = RefineEvent(preference=(0.5, 0.5), evaluations=4)


def by_refinement(number: int, *names: str) -> AskedEvent:
    return replace(asked(1, *names), refinement=number)


def told(name: str) -> ToldEvent:
    return ToldEvent(id=name, state="s")


def fold(*events: Event) -> History:
    """After a search that a plateau ended; a second passes before each event."""
    search = [
        *begin(),
        asked(0, "c00000"),
        scored("c00000", ONE),
        ToldEvent(generation=0, state="s"),
        SelectionEvent(ids=("c00000",)),
        scored("c00000", ONE, "selection"),
        StoppedEvent(reason="plateau"),
    ]
    every = enumerate([*search, *events])
    return History.fold([replace(event, elapsed=float(second)) for second, event in every])


SEARCHED = fold().elapsed


def refining(history: History) -> tuple[str | None, str | None, str | None, int]:
    sessions = history.sessions
    return (
        history.stopped,
        sessions.refinement_stopped,
        sessions.last_stopped,
        sessions.refinements_ended,
    )


def test_a_refinement_leaves_what_ended_the_search_and_its_hours() -> None:
    session = [
        REFINE,
        by_refinement(0, "c00001"),
        scored("c00001", ONE),
        told("c00001"),
        SelectionEvent(ids=("c00000", "c00001")),
        scored("c00001", ONE, "selection"),
        StoppedEvent(reason="budget", refinement=0),
    ]
    assert refining(fold()) == ("plateau", None, "plateau", 0)
    for length in range(1, len(session)):
        history = fold(*session[:length])
        assert refining(history) == ("plateau", None, None, 0)
        assert history.search_elapsed == SEARCHED
    history = fold(*session)
    assert refining(history) == ("plateau", "budget", "budget", 1)
    assert (history.elapsed, history.search_elapsed) == (SEARCHED + len(session), SEARCHED)
    after = fold(*session, asked(2, "c00002"), scored("c00002", ONE))
    assert refining(after) == (None, "budget", None, 1)
    assert after.search_elapsed == SEARCHED + 2


def test_what_an_interrupted_refinement_is_gone_on_with_is_its_own() -> None:
    interrupted = [REFINE, by_refinement(0, "c00001"), StoppedEvent(reason="interrupted", refinement=0)]
    assert refining(fold(*interrupted)) == ("plateau", "interrupted", "interrupted", 0)
    goes_on = [GrantedEvent(grants=("task_code",)), scored("c00001", ONE), told("c00001")]
    history = fold(*interrupted, *goes_on)
    assert refining(history) == ("plateau", None, None, 0)
    assert history.search_elapsed == SEARCHED
    own = fold(*interrupted, asked(2, "c00002"), StoppedEvent(reason="interrupted"))
    assert refining(own) == ("interrupted", "interrupted", "interrupted", 0)
    assert own.search_elapsed == SEARCHED + 2


def test_in_old_ledgers_a_refinement_is_named_only_where_it_came_to_its_end() -> None:
    interrupted = [REFINE, by_refinement(0, "c00001"), StoppedEvent(reason="interrupted")]
    assert refining(fold(*interrupted)) == ("plateau", "interrupted", "interrupted", 0)
    assert refining(fold(REFINE, StoppedEvent(reason="fault"))) == ("plateau", "fault", "fault", 0)
    # A session of the search that had no more to do than to score what the refinement had found.
    scores = [SelectionEvent(ids=("c00000",)), StoppedEvent(reason="budget")]
    assert refining(fold(*interrupted, *scores)) == ("budget", "interrupted", "budget", 0)
    ended = fold(*interrupted[:2], StoppedEvent(reason="budget", refinement=0))
    assert refining(ended) == ("plateau", "budget", "budget", 1)


def test_a_refinement_may_be_stopped_before_it_begins() -> None:
    history = fold(StoppedEvent(reason="interrupted", refinement=0))
    assert refining(history) == ("plateau", "interrupted", "interrupted", 0)
    assert refining(fold(StoppedEvent(reason="interrupted", refinement=0), REFINE))[1:] == (
        None,
        None,
        0,
    )
