"""Campaigns to hurt: sessions of a real driver, and the judgement over what is left at the end."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.cli.verify.invariants import verify
from evomerge.errors import EvomergeError
from evomerge.ledger.events import PreparedEvent
from evomerge.ledger.history import LEDGER_FILE, History
from tests.faults.harness import Tally, Trial
from tests.faults.sessions import ACKNOWLEDGED, checksum, command, toys
from tests.faults.toy import write_plan
from tests.hand_made import fold_records
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, front_text, run_file

GENERATIONAL: Mapping[str, Any] = {}
STEADY: Mapping[str, Any] = {
    "optimizer": {"kind": "nsga2", "population": 6, "schedule": "steady_state"}
}
SCHEDULES = (GENERATIONAL, STEADY)
RUN = "run"


@functools.cache
def report() -> PreparedEvent:
    """What `prepare` finds in the models of the tiny campaign."""
    prepared = finished().history.prepared
    assert prepared is not None
    return replace(prepared, n=None, time=None, elapsed=None)


def write_toy_campaign(folder: Path, sections: Mapping[str, Any] = GENERATIONAL, **plan: Any) -> Path:
    """A campaign over the models of the tiny campaign, judged by toy workers; returns its file."""
    source = finished().file.parent
    for name in ("models", "evaluators"):
        if not (folder / name).exists():
            (folder / name).symlink_to(source / name)
    write_plan(folder, report(), **plan)
    return write_campaign(folder, **sections)


def end_of(directory: Path) -> tuple[str, list[str]]:
    """What must not depend on any fault: the front, and the optimizer's states on the way to it."""
    turns = fold_records(events_of(directory)).turns
    states = [turn.state for turn in turns if turn.state is not None and turn.asker is None]
    return front_text(directory), states


@functools.cache
def undisturbed(schedule: int = 0) -> tuple[str, list[str]]:
    """The end of a toy campaign that nothing hurt; `schedule` is a place in `SCHEDULES`."""
    return end_of(_undisturbed_folder(schedule) / RUN)


@functools.cache
def _undisturbed_folder(schedule: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="evomerge-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = write_toy_campaign(folder, SCHEDULES[schedule])
    session(file)
    return folder


@functools.cache
def evaluated_ids() -> list[str]:
    """Candidates of the undisturbed toy campaign that cost an evaluation, in ask order."""
    folder = _undisturbed_folder(0)
    results = [event for event in events_of(folder / RUN) if event["event"] == "evaluated"]
    own = {e["id"] for e in results if e["split"] == "search" and "same_as" not in e}
    return sorted(name for name in own if name[1:].isdigit())


def session(file: Path, **options: Any) -> History:
    """One driver's turn at the campaign of a file, in this process."""
    with toys():
        return run_file(file, file.parent / RUN, **options)


def run_command(file: Path, *options: str) -> int:
    """`evomerge run` of the campaign of a file."""
    return command("run", file, "--dir", file.parent / RUN, *options)


def stop_after(asked: int, kind: type[EvomergeError]) -> Callable[[], EvomergeError | None]:
    """A stop request that comes true when it has been asked often enough."""
    left = [asked]

    def request() -> EvomergeError | None:
        left[0] -= 1
        return kind("enough") if left[0] < 0 else None

    return request


def judge(folder: Path, injections: int, schedule: int = 0) -> Tally:
    """Compare a campaign that has run to its end with what was acknowledged, and with one left alone."""
    directory = folder / RUN
    events = events_of(directory)
    faults = verify(directory)
    assert faults == [], faults
    return Tally(
        injections=injections,
        lost=lost_events(folder, events),
        doubled=doubled_results(events),
        fronts=1,
        differing=int(end_of(directory) != undisturbed(schedule)),
    )


def lost_events(folder: Path, events: Sequence[Mapping[str, Any]]) -> int:
    """How many acknowledged events are not in the ledger, or other there."""
    log = folder / ACKNOWLEDGED
    lines = log.read_text().splitlines() if log.exists() else []
    known = {number: checksum(event) for number, event in enumerate(events)}
    told = [tuple(map(int, line.split())) for line in lines if len(line.split()) == 2]
    return sum(known.get(number) != crc for number, crc in told)


def doubled_results(events: Sequence[Mapping[str, Any]]) -> int:
    """Results beyond one for each model and split, and beyond one for each evaluation key."""
    results = [event for event in events if event["event"] == "evaluated"]
    places = Counter((event["id"], event["split"]) for event in results)
    keys = Counter(event["key"] for event in results if "same_as" not in event)
    return sum(count - 1 for count in (*places.values(), *keys.values()))


def finish(trial: Trial, file: Path, injections: int, schedule: int = 0) -> Tally:
    """Let the campaign of a trial run to its end, and judge it."""
    session(file)
    return judge(trial.folder, injections, schedule)


def ledger_of(folder: Path) -> Path:
    """The ledger of a trial's campaign."""
    return folder / RUN / LEDGER_FILE
