"""What ends a search: whichever limit comes first, and what is then said."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.file import BudgetSection
from evomerge.cli.seen import Seen
from evomerge.cli.status_rows import status_rows
from evomerge.errors import Interrupted
from evomerge.ledger.history import History
from evomerge.objectives.forecast import Forecast
from evomerge.optimizers import surrogate
from evomerge.optimizers.auto import weighed
from evomerge.report.progress import forecast_words
from evomerge.run.limits import (
    ENDED,
    ahead_text,
    at_plateau,
    expected_gain,
    recent_gain,
    spent_reason,
)
from evomerge.run.session import is_finished
from evomerge.run.standing import search_hypervolume, standing
from tests.cli.terminal import call
from tests.hand_made import fold_records, searched_in_turn
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, run_file

POPULATION = 6
ITEMS = 48


@pytest.mark.parametrize(
    ("budget", "allowed", "reason"),
    [
        ({"evaluations": 20}, 20.0, "budget"),
        ({"items": 320}, 10.0, "items"),
        ({"items": 320, "evaluations": 20}, 10.0, "items"),
        ({"items": 3200, "evaluations": 20}, 20.0, "budget"),
        ({"hours": 1.0}, None, "budget"),
    ],
)
def test_items_and_evaluations_are_one_account(budget: Any, allowed: Any, reason: str) -> None:
    section = BudgetSection(**budget)
    assert section.evaluations_allowed(search_items=32) == allowed
    assert spent_reason(section, search_items=32) == reason


def test_the_recent_gain_is_that_of_the_last_two_populations() -> None:
    events = events_of(finished().directory)
    events = events[: 1 + max(i for i, event in enumerate(events) if event["event"] == "told")]
    history = fold_records(events)
    assert recent_gain(history) is None  # 18 told are too few
    config = dict(events[0]["config"])
    config["optimizer"] = config["optimizer"] | {"population": 4}
    history = fold_records([events[0] | {"config": config}, *events[1:]])
    told = [name for turn in history.turns if turn.state is not None for name in turn.ids]
    late = set(told[-8:])
    kept = [e for e in events if e["event"] != "evaluated" or e["id"] not in late]
    now, before = search_hypervolume(history), search_hypervolume(fold_records(kept))
    assert now is not None
    assert before is not None
    gain = (now - before) / now
    assert recent_gain(history) == pytest.approx(gain)
    assert at_plateau(history, BudgetSection(hours=1.0, plateau=min(0.99, gain + 0.01)))
    assert not at_plateau(history, BudgetSection(hours=1.0))


def gain_of(focus: Any, points: list[tuple[float, float]]) -> float | None:
    """What the last two of four populations of one candidate added, where the optimizer has this focus."""
    optimizer = {"kind": "learned-front", "population": 1, "focus": focus}
    return recent_gain(History.fold(searched_in_turn(optimizer, points)))


def test_with_a_focus_the_recent_gain_is_that_near_it() -> None:
    """So what the rest of the front gains or has does not count; in a region only what lies inside does."""
    even, aside = [(0.6, 0.6), (0.4, 0.7)], [(0.75, 0.3), (0.3, 0.79)]
    late, nearer = [*even, *aside], [*aside, (0.5, 0.5), (0.55, 0.55), (0.52, 0.53), (0.6, 0.6)]
    gains = {}
    for focus in (None, "knee", {"a": 1.0, "b": 0.0}, "a>=0.5,b>=0.5", "a>=0.7", "a>=0.7,b>=0.7"):
        gains[str(focus)] = (gain_of(focus, late), gain_of(focus, nearer))
    assert gains.pop("a>=0.7,b>=0.7") == (None, None), "nothing lies inside"
    free, knee, first, middle, right = gains.values()
    assert free[0] is not None
    assert free[1] is not None
    assert free[0] > 0.1
    assert knee[0] == pytest.approx(0.0, abs=0.02)
    assert knee[1] is not None
    assert knee[1] > 1.2 * free[1]
    assert first[0] is not None
    assert first[0] > 0.3
    assert first[1] == pytest.approx(0.0, abs=0.02)
    assert middle[0] == 0.0
    assert right == (1.0, 0.0)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"evaluations": 60, "plateau": 0.9}, "plateau"),
        ({"evaluations": 60, "items": 20 * ITEMS}, "items"),
    ],
)
def test_a_campaign_ends_at_the_limit_that_comes_first(
    tmp_path: Path, budget: Any, reason: str
) -> None:
    shutil.copytree(finished().directory, tmp_path / "run")
    file = finished().file.parent / f"{reason}.yaml"
    file.write_text(json.dumps(json.loads(finished().file.read_text()) | {"budget": budget}))
    history = run_file(file, tmp_path / "run")
    assert history.search_items == ITEMS
    assert history.stopped == reason
    told = sum(len(turn.ids) for turn in history.turns if turn.state is not None)
    assert told == 1 + 4 * POPULATION  # the first generation holds one more: all that is given
    assert history.cost == 20
    assert is_finished(load_campaign(file), tmp_path / "run")
    status = call("status", tmp_path / "run")
    assert f"its budget of {reason}" in status.out or f"a {reason}" in status.out
    assert call("status", tmp_path / "run", "--json").json["ended_by"] == reason
    assert call("verify", tmp_path / "run").code == 0
    file.write_text(json.dumps(json.loads(file.read_text()) | {"budget": {"evaluations": 60}}))
    assert not is_finished(load_campaign(file), tmp_path / "run")
    front = call("front", tmp_path / "run")
    words = ENDED[reason]
    if reason == "plateau":
        gain = recent_gain(history)
        assert gain is not None
        # The ledger has the first session's limits, without a plateau.
        words = f"a plateau: the last 12 candidates told added {share(gain)} % of the hypervolume"
        assert f"ended by      {words}\n" in status.out
    assert f"the search was ended by {words}" in " ".join(front.out.split())
    assert call("front", tmp_path / "run", "--json").json["ended_by"] == reason


def share(value: float) -> str:
    """In percent, as it is shown."""
    return f"{round(100 * value, 2 if value < 0.1 else 1):g}"


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
def test_with_a_model_a_search_ends_before_a_batch_of_which_too_little_is_expected(
    tmp_path: Path, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast is recorded with the batch, which is evaluated when the limit is taken away."""
    config = json.loads(finished().file.read_text())
    options = {"start": 8, "generations": 2, "inner_population": 8}
    config["optimizer"] = {
        "kind": "surrogate",
        "population": 6,
        "options": options,
        "schedule": schedule,
    }
    file = finished().file.parent / f"foreseen-{schedule}.yaml"
    file.write_text(json.dumps(config | {"budget": {"evaluations": 40, "plateau": 0.999}}))
    plan = call("check", file).out
    assert "until a population is expected to add less than 99.9 % of the hypervolume" in plan
    history = run_file(file, tmp_path / "run")
    assert history.stopped == "plateau"
    assert history.budget_used < 40
    asked = [e for e in events_of(tmp_path / "run") if e["event"] == "asked"]
    (last,) = [c["id"] for c in asked[-1]["candidates"]][:1]
    assert not history.candidates[last].is_settled
    gain = expected_gain(history)
    assert gain is not None
    assert gain < 0.999
    if schedule == "generational":
        assert gain == asked[-1]["forecast"]["high"]
    assert asked[0].get("forecast") is None
    seen = call("status", tmp_path / "run", "--json").json["forecast"]
    last_six = [each["forecast"] for each in (asked[-6:] if schedule == "steady_state" else asked[-1:])]
    for name in ("gain", "low", "high"):
        assert seen.pop(name) == pytest.approx(sum(each[name] for each in last_six))
    assert seen == {"candidates": 6, "of": "the hypervolume", "plateau": 0.999}
    mean, low = (share(sum(each[name] for each in last_six)) for name in ("gain", "low"))
    words = (
        f"a plateau: the last 6 candidates asked were expected to add {mean} % of the hypervolume, "
        f"{low} to {share(gain)} %; the search ends once the upper end is below 99.9 %"
    )
    assert f"\nended by      {words}\n" in call("status", tmp_path / "run").out
    assert f"the search was ended by {words}" in " ".join(call("front", tmp_path / "run").out.split())
    assert forecast_words(history) == f"The search was ended by {words}."
    monkeypatch.setattr(
        surrogate.Surrogate, "__call__", lambda *_: pytest.fail("a replay needs no model")
    )
    assert is_finished(load_campaign(file), tmp_path / "run")
    assert call("verify", tmp_path / "run").code == 0
    monkeypatch.undo()
    file.write_text(json.dumps(config | {"budget": {"evaluations": history.budget_used + 6}}))
    went_on = run_file(file, tmp_path / "run")
    assert went_on.stopped == "budget"
    assert went_on.candidates[last].is_settled
    assert call("verify", tmp_path / "run").code == 0
    row = re.search(r"^forecast      (.*)$", call("status", tmp_path / "run").out, re.MULTILINE)
    assert row is not None
    assert forecast_words(went_on) == f"T{row[1][1:]}."
    assert "the search ends" not in row[1], "that limit was taken away"


AUTO = {"steps": 2, "items": 4, "preferences": 4, "generations": 3, "inner_population": 8}


@pytest.fixture(scope="module", params=["generational", "steady_state"])
def auto(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a campaign by `auto`, which learns a map first; run without a plateau beside it."""
    optimizer = {"kind": "auto", "population": 4, "options": AUTO, "schedule": request.param}
    root = tmp_path_factory.mktemp("auto")
    file = write_campaign(root, optimizer=optimizer, budget={"evaluations": 40})
    assert run_file(file, root / "run").stopped == "budget"
    return file


def expected_gains(directory: Path) -> list[float | None]:
    """What was expected when each batch had been asked."""
    events = events_of(directory)
    ends = [number for number, event in enumerate(events, 1) if event["event"] == "asked"]
    return [expected_gain(fold_records(events[:end])) for end in ends]


def told_by(directory: Path) -> list[str | None]:
    """Who chose each batch."""
    asked = [event for event in events_of(directory) if event["event"] == "asked"]
    return [event.get("forecast", {}).get("by") for event in asked]


def test_auto_ends_at_a_plateau_once_its_lesson_is_over(auto: Path, tmp_path: Path) -> None:
    """At the first batch of which too little is expected, and what it asks until then is as without one."""
    gains = expected_gains(auto.parent / "run")
    least = min(gain for gain in gains if gain is not None)
    config = json.loads(auto.read_text())
    file = auto.parent / "plateau.yaml"
    file.write_text(json.dumps(config | {"budget": {"evaluations": 40, "plateau": 1.001 * least}}))
    history = run_file(file, tmp_path / "run")
    assert history.stopped == "plateau"
    assert expected_gains(tmp_path / "run") == gains[: 1 + gains.index(least)]
    assert not history.candidates[history.generations[-1][0]].is_settled
    asked, undisturbed = (
        [event["candidates"] for event in events_of(folder) if event["event"] == "asked"]
        for folder in (tmp_path / "run", auto.parent / "run")
    )
    assert asked == undisturbed[: len(asked)]
    kinds = [event["event"] for event in events_of(tmp_path / "run")]
    assert kinds.count("slope") > 0
    assert kinds.index("asked") > max(n for n, kind in enumerate(kinds) if kind == "slope")
    assert is_finished(load_campaign(file), tmp_path / "run")
    assert call("verify", tmp_path / "run").code == 0


def test_status_says_what_is_expected_of_the_last_candidates_as_soon_as_a_model_says_so(
    auto: Path, tmp_path: Path
) -> None:
    """Also where nothing can be a plateau yet; see below."""
    events = events_of(auto.parent / "run")
    ends = [number for number, event in enumerate(events, 1) if event["event"] == "asked"]
    rows: list[str | None] = []
    for end in ends:
        history = fold_records(events[:end])
        now = standing(history, budget=40)
        row = dict(status_rows(Seen(tmp_path, now, None, 0.0))).get("forecast")
        assert row == (None if now.ahead is None else ahead_text(now.ahead))
        rows.append(row)
    assert rows[0] is None
    assert rows[-1] is not None
    assert "% of the hypervolume, " in rows[-1]
    open_ended = [row for row in rows if row is not None and "no model yet" in row]
    gains = expected_gains(auto.parent / "run")
    assert len(open_ended) == sum(
        gain is None and row is not None for gain, row in zip(gains, rows, strict=True)
    )


def test_auto_is_at_no_plateau_while_a_model_that_it_may_go_on_to_is_not_there(auto: Path) -> None:
    """The map's next points are worth nothing by then, and the genes will be worth a good deal."""
    gains, by = expected_gains(auto.parent / "run"), told_by(auto.parent / "run")
    assert "map" in by
    assert "genes" in by
    assert all(gain is None for gain, who in zip(gains, by, strict=True) if who == "map")
    assert min(gain for gain in gains if gain is not None) > 0.02


@pytest.mark.parametrize("other", [None, 0.1, 0.3])
def test_a_choice_is_as_good_as_what_it_was_weighed_against(
    other: float | None,
) -> None:
    taken = Forecast("chart", 0.15, 0.1, 0.2)
    against = None if other is None else Forecast("genes", 0.05, 0.0, other)
    expected = None if other is None else max(0.2, other)
    assert weighed(taken, against) == replace(taken, high=expected)
    assert weighed(Forecast("map"), against) == Forecast("map")


def test_what_stopped_a_session_is_said(tmp_path: Path) -> None:
    shutil.copytree(finished().directory, tmp_path / "run")
    budget = {"budget": {"evaluations": 60}}
    file = finished().file.parent / "stopped.yaml"
    file.write_text(json.dumps(json.loads(finished().file.read_text()) | budget))
    with pytest.raises(Interrupted, match=r"^interrupted$"):
        run_file(file, tmp_path / "run", stop_request=lambda: Interrupted("interrupted"))
    assert call("status", tmp_path / "run", "--json").json["ended_by"] == "interrupted"
    assert "ended by an interrupt" in " ".join(call("status", tmp_path / "run").out.split())
    assert "ended by an interrupt" in " ".join(call("front", tmp_path / "run").out.split())
