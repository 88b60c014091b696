from __future__ import annotations

import dataclasses
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from evomerge.cli.candidate import candidate_json, print_candidate
from evomerge.cli.live import Lines, Live, best_lines, open_display
from evomerge.cli.output import show_log
from evomerge.cli.seen import Seen
from evomerge.cli.status_rows import status_rows
from evomerge.front.tables import shown_value
from evomerge.ledger.events import SlopeEvent, StoppedEvent, event_from_json
from evomerge.ledger.history import History
from evomerge.objectives.objective import complete
from evomerge.run.driver import Progress
from evomerge.run.pace import pace_of, recorded_pace
from evomerge.run.standing import line, phase_of, search_hypervolume, standing
from evomerge.run.watch import Watch
from tests.hand_made import fold_records, scored
from tests.tiny_runs import events_of, finished


def _prefixes():
    """The history after each event of a whole campaign."""
    events = events_of(finished().directory)
    history = History()
    for event in events:
        history.apply(event_from_json(event))
        yield event, history


@pytest.mark.parametrize(
    ("times", "pace"),
    [
        ([], None),
        ([0.0, 1.0], None),
        ([0.0, 1.0, 2.0, 3.0], 60.0),
        ([0.0, 30.0, 60.0], 2.0),
        # two workers: results come in pairs
        ([0.0, 0.0, 10.0, 10.0, 20.0, 20.0], 60 * 5 / 20),
        # a night between two sessions
        ([0.0, 1.0, 2.0, 3.0, 30000.0, 30001.0], 60.0),
        # slow ones are work, not pauses
        ([0.0, 300.0, 700.0, 1000.0], 60 * 3 / 1000),
        ([5.0, 5.0, 5.0], None),
    ],
)
def test_pace(times, pace):
    assert pace_of(times) == (None if pace is None else pytest.approx(pace))


def test_recorded_pace_counts_the_last_session_and_no_repeats():
    def result(time, **more):
        return scored("c00000", {}, time=time, **more)

    stop = StoppedEvent(reason="interrupted", time=10.0)
    events = [result(1.0), result(9.0), stop, result(100.0), result(101.0), result(101.0, same_as="a")]
    assert recorded_pace(events) is None
    assert recorded_pace([*events, result(102.0)]) == pytest.approx(60.0)
    assert recorded_pace([*events, result(102.0), StoppedEvent(reason="budget")]) == pytest.approx(60.0)


def test_phases_follow_each_other():
    phases = list(dict.fromkeys(phase_of(history) for _, history in _prefixes()))
    assert phases == ["prepare", "baselines", "search", "selection", "done"]
    events = events_of(finished().directory)[:9]
    stopped = [*events, {"event": "stopped", "reason": "interrupted", "time": 0.0}]
    assert phase_of(fold_records(stopped)) == "interrupted"


def test_standing_of_a_finished_campaign():
    history = finished().history
    now = standing(history, budget=36, pace=60.0)
    assert now.evaluations == 18
    assert now.seconds_left == pytest.approx(18.0)
    # During the search, half the candidates and the baselines shown are to be scored on selection items.
    items = dict.fromkeys(("search", "selection"), 0)
    for each in history.prepared.evaluators.values():
        items = {split: count + each.items[split] for split, count in items.items()}
    again = items["selection"] / items["search"] * (36 / 2 + len(history.reference_ids()))
    searching = standing(history, budget=36, phase="search", pace=60.0)
    assert searching.seconds_left == pytest.approx(18.0 + again)
    assert now.baselines == (6, 6)
    assert now.rescored[0] == now.rescored[1] > 0
    experts = {
        name: history.candidates[name].evaluations["search"].metrics for name in ("math", "code")
    }
    for best in now.best[:2]:
        values = [c.evaluations["search"].metrics[best.metric].value for c in history.searched()]
        assert best.value == max(values)
        assert best.expert_value == max(metrics[best.metric].value for metrics in experts.values())
    means = [
        np.mean([m.value for m in c.evaluations["search"].metrics.values()]) for c in history.searched()
    ]
    assert now.best[2].metric == "mean"
    assert now.best[2].value == pytest.approx(max(means))
    assert standing(history, budget=None).seconds_left is None


def test_slopes_say_nothing_of_how_many_evaluations_are_left():
    history = History.fold(map(event_from_json, events_of(finished().directory)))
    history.apply(SlopeEvent(batch=0, number=0, request="", weights=(1.0, 1.0), cost=18.0))
    now = standing(history, budget=54, phase="done", pace=60.0)
    assert (now.evaluations, now.cost) == (18, 36.0)
    assert now.seconds_left == pytest.approx(18.0)


def test_what_gradients_took_of_the_budget_is_said_at_the_end():
    history = History.fold(map(event_from_json, events_of(finished().directory)))
    words = "ended by its budget of evaluations"
    assert line(standing(history, budget=18)) == f"done: 18 evaluations, {words}"
    history.apply(SlopeEvent(batch=0, number=0, request="", weights=(1.0, 1.0), cost=5.0625))
    history.apply(StoppedEvent(reason="budget"))
    now = standing(history, budget=24)
    assert line(now) == f"done: 18 evaluations and 5.1 for gradients, {words}"
    assert now.to_json()["slope_cost"] == 5.0625


def test_hypervolume_by_counting_a_grid():
    """An independent oracle for two objectives: the dominated share of a fine grid."""
    history = finished().history
    scaling = history.scaling
    objectives = finished().front.objectives
    points = scaling.scale(
        np.array(
            [complete(objectives, c.evaluations["search"].metrics).values for c in history.searched()]
        )
    )
    low = points.min(axis=0)
    side = [np.linspace(start, 1.1, 1200) for start in low]
    grid = np.stack(np.meshgrid(*side), axis=-1).reshape(-1, 2)
    covered = np.zeros(len(grid), dtype=bool)
    for point in points:
        covered |= (grid >= point).all(axis=1)
    area = float(np.prod(1.1 - low)) * covered.mean()
    assert search_hypervolume(history) == pytest.approx(area, rel=0.01)


def test_lines_are_one_a_generation(capsys):
    with Lines() as display:
        for _, history in _prefixes():
            if history.campaign:
                display(history, Progress(phase_of(history), (), 18, 0, 0.0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines))
    heads = [text.split(":")[0] for text in lines]
    count = finished().history.tells
    numbers = [f"generation {number}" for number in range(count + 1)]
    assert heads == ["prepare", "baselines", *numbers, "selection", "done"]


def test_lines_for_a_collector_of_logs_are_json(capsys):
    show_log(as_json=True)
    try:
        with open_display(lambda: False, as_json=True) as display:
            display(finished().history, Progress("search", (), 18, 3, 1.0))
        logging.getLogger("evomerge.run").warning("tracking with %s is given up", "wandb")
    finally:
        show_log()
    told = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [each["level"] for each in told] == ["info", "warning"]
    assert told[0]["progress"]["evaluations"] == 18
    assert told[1]["message"] == "tracking with wandb is given up"
    assert told[1]["logger"] == "evomerge.run"
    assert all(each["time"].endswith("+00:00") for each in told)


@pytest.mark.parametrize(("term", "kind"), [("xterm-256color", Live), ("dumb", Lines)])
def test_a_dumb_terminal_gets_plain_lines(monkeypatch, term, kind):
    console = Console(force_terminal=True, file=io.StringIO(), _environ={"TERM": term})
    monkeypatch.setattr("evomerge.cli.live.log_console", lambda: console)
    assert isinstance(open_display(lambda: False), kind)


def test_steady_state_has_no_generations(capsys):
    """Neither in lines, status, nor in what `show` says of a candidate."""
    history = fold_records([_in_steady_state(event) for event in events_of(finished().directory)])
    name = history.searched()[0].id
    now = standing(history, budget=18, phase="search")
    assert line(now).startswith("steady state: 18 of 18 evaluations")
    assert now.to_json()["schedule"] == "steady_state"
    assert now.to_json()["generation"] is None
    assert dict(status_rows(Seen(Path("run"), now, None, 0.0)))["phase"] == "search, steady state"
    assert "generation" not in candidate_json(history, history.candidates[name])
    print_candidate(history, history.candidates[name])
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: candidate, the same merge as the baseline base\n")
    assert "generation" not in out


def _in_steady_state(event):
    """The event as it would be if the campaign's file asked for that schedule."""
    if event["event"] != "campaign":
        return event
    config = event["config"]
    return event | {
        "config": config | {"optimizer": config["optimizer"] | {"schedule": "steady_state"}}
    }


def test_a_line_names_failures_and_time_left():
    now = standing(finished().history, budget=36, phase="search", pace=30.0)
    now = dataclasses.replace(now, failures={"deadline": 2})
    text = line(now)
    assert "18 of 36 evaluations, 30.0 evaluations/min, 1:07 left" in text
    assert "failed: 2 deadline" in text


def test_the_watch_computes_hypervolume_only_for_new_scores(monkeypatch):
    calls = []

    def counted(history):
        calls.append(1)
        return search_hypervolume(history)

    monkeypatch.setattr("evomerge.run.watch.search_hypervolume", counted)
    watch = Watch()
    for _ in range(5):
        now = watch(finished().history, Progress("search", (), 18, 3, 1.0))
    assert len(calls) == 1
    assert now.hypervolume == finished().front.hypervolume["search"]


def test_results_that_arrive_together_all_count_for_the_pace(monkeypatch):
    watch, moment = Watch(), 0.0
    monkeypatch.setattr("evomerge.run.watch.time.monotonic", lambda: moment)
    for number in range(1, 6):
        moment = 10.0 * number
        progress = Progress("search", (), 40, 4 * number, moment)
        for _ in range(4):  # the driver tells of each event
            now = watch(finished().history, progress)
    assert now.pace == pytest.approx(60 * 19 / 40)


def test_the_watch_knows_how_busy_the_workers_are():
    watch = Watch()
    history = finished().history
    assert watch.busy is None
    for seconds, running in (
        (0.0, ()),
        (1.0, ("a", "b")),
        (3.0, ("a", "b", "c")),
        (4.0, ("a",)),
        (6.0, ()),
    ):
        watch(history, Progress("search", running, 18, 3, seconds, 2))
    # 1 s with nothing, 3 s with both (a third lay ready), 2 s with one of two workers.
    assert watch.busy == pytest.approx((0 + 3 * 2 + 2 * 1) / (6 * 2))
    assert watch.volumes == (finished().front.hypervolume["search"],)


def test_the_live_display_shows_workers_and_the_way_of_the_hypervolume():
    live = Live(lambda: False)
    for _, history in _prefixes():
        if history.campaign:
            now = Progress(phase_of(history), ("a",), 18, 0, float(history.settled), 4)
            live(history, now)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(live.draw())
    text = console.export_text()
    assert "workers: 4, 25 % busy" in text
    # Names in pieces, numbers whole, in a terminal however narrow.
    best = live.now.best
    long = [dataclasses.replace(b, metric=f"commonsense_reasoning.{b.metric}") for b in best]
    narrow = best_lines(dataclasses.replace(live.now, best=tuple(long)), 60)
    assert all(len(row) <= 60 for row in narrow)
    assert all(any(shown_value(b.metric, b.value) in row for row in narrow) for b in long)
    assert sum(row.startswith("reasoning") for row in narrow) == len(best)
    assert "█ (search scores)" in text


@pytest.mark.parametrize("phase", ["prepare", "baselines", "search", "selection", "done"])
def test_the_live_display_draws_every_phase(phase):
    stopping = phase == "search"
    live = Live(lambda: stopping)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live.draw())
    assert "starting workers" in console.export_text()
    running = tuple(f"c{i:05d}" for i in range(10))
    live(finished().history, Progress(phase, running, 36, 3, 1.0))
    console.print(live.draw())
    text = console.export_text()
    assert "c00007 and 2 more" in text
    assert ("stopping; Ctrl-C again stops at once" in text) == stopping
    assert {
        "prepare": "reading the checkpoints",
        "baselines": "6/6 baselines scored",
        "search": "18/36 evaluations",
        "selection": "models scored on held-out items",
        "done": "18/36 evaluations",
    }[phase] in text


def test_the_selection_phase_says_what_is_left_of_it():
    events = events_of(finished().directory)
    at = next(i for i, event in enumerate(events) if event["event"] == "selection")
    for number in (0, 2):
        now = standing(fold_records(events[: at + 1 + number]), budget=18, pace=60.0)
        assert now.phase == "selection"
        assert now.rescored[0] >= number
        assert now.seconds_left == now.rescored[1] - now.rescored[0]
        assert " left" in line(now)
        assert "time left" in dict(status_rows(Seen(Path("run"), now, None, 0.0)))
