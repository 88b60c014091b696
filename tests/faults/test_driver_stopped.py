"""The driver is killed, stopped, doubled, or given other workers: F1, F2, F4, F8, F9, F15."""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import evomerge
from evomerge.errors import Stopped
from evomerge.export.export import export_candidate
from evomerge.export.files import check_manifest
from evomerge.ledger.records import RecordFile
from tests.faults.bed import (
    RUN,
    SCHEDULES,
    evaluated_ids,
    finish,
    judge,
    ledger_of,
    run_command,
    session,
    stop_after,
    write_toy_campaign,
)
from tests.faults.harness import Tally, Trial, row
from tests.faults.sessions import toys
from tests.tiny_runs import events_of, finished, forked

PACKAGE = Path(evomerge.__file__).parent
KILLED = -signal.SIGKILL


@row("F1", "SIGKILL of the driver at random moments", quick=6, t1=50, t2=500)
def test_f01_driver_killed_at_random_moments(trial: Trial) -> Tally:
    """Killed until it ends by itself; each session must get further than the one before."""
    schedule, rng = trial.index % 2, trial.rng
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule], seconds=0.01)
    kills, longest = 0, 0.6
    while True:
        code = forked(lambda: session(file), kill_after=rng.uniform(0.02, longest))
        if code == 0:
            return judge(trial.folder, kills, schedule) if kills else Tally(injections=0)
        assert code == KILLED
        kills += 1
        # On a machine so slow that sessions die before they begin, they are given more time.
        longest *= 1.1
        assert kills < 60, "no progress"


@row("F4", "SIGKILL while it resumes", quick=3, t1=10, t2=100)
def test_f04_driver_killed_while_it_resumes(trial: Trial) -> Tally:
    """At each step of a resume: the ledger opened, read, its tail cut, replayed, workers made."""
    schedule, rng = trial.index % 2, trial.rng
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule])
    with contextlib.suppress(Stopped):
        session(file, stop_request=stop_after(rng.randrange(12, 30), Stopped))
    points = [
        "ledger.after_open_fsync=kill",
        "driver.folded=kill",
        "driver.before_pool=kill",
        f"driver.replaying=kill@{rng.randint(1, 2)}",
    ]
    rng.shuffle(points)
    codes = [forked(lambda: session(file), point) for point in points]
    assert codes == [KILLED] * len(points), dict(zip(points, codes, strict=True))
    return finish(trial, file, len(points), schedule)


def failpoints() -> list[str]:
    """Every failpoint that is named in the package."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if "failpoint(" not in text:
            continue  # to parse them all takes a second, in every process that collects tests
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        for call in calls:
            plain = isinstance(call.func, ast.Name) and call.func.id == "failpoint"
            if plain and isinstance(call.args[0], ast.Constant):
                names.add(str(call.args[0].value))
    return sorted(names)


ELSEWHERE = {
    "adapter.filled", "adapter.tensor", "dispatch.before_same_failure", "ledger.copied",
    "ledger.copy_checked", "slopes.appended", "slopes.before_record",
}  # fmt: skip
"""Passed only where PEFT merges an adapter, equal merges fail together, a driver takes over from another, or
an optimizer learns from slopes: `test_peft_adapters`, `test_dispatch`, `ledger/test_takeover` and
`run/test_learned_front` arrange that, and kill there."""

POINTS = [point for point in failpoints() if point not in ELSEWHERE]


@row("F2", "SIGKILL at every named failpoint", quick=len(POINTS), t1=len(POINTS), t2=10 * len(POINTS))
def test_f02_killed_at_every_failpoint(trial: Trial) -> Tally:
    """One trial a point; what a point needs in order to be passed is arranged for it."""
    assert len(POINTS) >= 20
    point = POINTS[trial.index % len(POINTS)]
    if point.startswith("export."):
        return export_killed_at(trial, point)
    schedule = 0 if point.startswith("pool.") else trial.rng.randrange(2)
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule])
    if point.startswith("repair."):
        return repair_killed_at(trial, file, point, schedule)
    before = {"driver.replaying", "ledger.before_truncate"}
    if point in before:
        with contextlib.suppress(Stopped):
            session(file, stop_request=stop_after(16, Stopped))
    if point == "ledger.before_truncate":
        with ledger_of(trial.folder).open("ab") as ledger:
            ledger.write(b'01234567 {"event":')
    if point == "pool.before_replace":
        write_toy_campaign(
            trial.folder,
            SCHEDULES[schedule] | {"workers": {"pool": "local", "count": 1}},
            faults={evaluated_ids()[0]: "exit once"},
        )
    code = forked(lambda: session(file), f"{point}=kill")
    assert code == KILLED, f"{point} is never passed"
    return finish(trial, file, 1, schedule)


def repair_killed_at(trial: Trial, file: Path, point: str, schedule: int) -> Tally:
    """A copy that was cut short is no campaign folder that could be taken for whole."""
    session(file)
    run, out = trial.folder / RUN, trial.folder / "repaired"
    with toys():
        from evomerge.ledger.repair import repair_folder

        assert forked(lambda: repair_folder(run, out), f"{point}=kill") == KILLED
        repair_folder(run, out)
    shutil.rmtree(run)
    out.rename(run)
    return finish(trial, file, 1, schedule)


OVER_ANOTHER = ("export.exchanged", "export.set_aside", "export.discarded")
NO_EXCHANGE = ("export.set_aside", "export.discarded")


def export_killed_at(trial: Trial, point: str) -> Tally:
    """An export is wholly there or not at all, and works when it is repeated."""
    out = trial.folder / "out"
    if point in OVER_ANOTHER:
        shutil.copytree(older_export(), out)
    exchange = mock.patch("evomerge.files.staging._renameat2", return_value=False)
    with exchange if point in NO_EXCHANGE else contextlib.nullcontext():
        code = forked(lambda: export(out, rescore=point == "export.scored"), f"{point}=kill")
    assert code == KILLED, f"{point} is never passed"
    mixed = int(out.exists() and check_manifest(out) != [])
    export(out)
    assert check_manifest(out) == []
    assert [path.name for path in trial.folder.iterdir()] == ["out"]
    return Tally(injections=1, fronts=1, differing=mixed)


def export(out: Path, *, rescore: bool = False) -> None:
    """The knee of the tiny campaign as a checkpoint."""
    export_candidate(campaign_copy(), "knee", out, overwrite=True, rescore=rescore)


@functools.cache
def campaign_copy() -> Path:
    """The tiny campaign's folder, to export from; the log of exports in it is not to be counted."""
    folder = Path(tempfile.mkdtemp(prefix="evomerge-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(shutil.copytree(finished().directory, folder / "campaign"))


@functools.cache
def older_export() -> Path:
    """An export of another candidate."""
    out = campaign_copy().parent / "older"
    export_candidate(campaign_copy(), "math", out, rescore=False)
    return out


def wait_for(happened: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: if it does not in time.
    """
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)


def results_in(folder: Path) -> int:
    """Evaluations in the ledger of a trial."""
    path = ledger_of(folder)
    return path.read_bytes().count(b'"event":"evaluated"') if path.exists() else 0


def start(file: Path, said: str | None = None, options: tuple[str, ...] = ()) -> int:
    """`evomerge run` in a forked process of its own group, its words in `driver.txt` or `said`; its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            log = file.parent / "driver.txt"
            with log.open("a", buffering=1) as out, Path(said or log).open("a", buffering=1) as words:
                sys.stdout, sys.stderr = out, words
                os.dup2(out.fileno(), 1)
                os.dup2(words.fileno(), 2)
                code = run_command(file, *options)
        finally:
            os._exit(code)
    return child


def ended(child: int, seconds: float) -> int:
    """Exit code of a child (negative: its signal); it is killed if it takes longer.

    Raises:
        AssertionError: if it took longer.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"still running after {seconds} s")


@row("F8", "SIGTERM, SIGINT, SIGINT twice, workers busy", quick=3, t1=20, t2=100)
def test_f08_a_signal_stops_cleanly(trial: Trial) -> Tally:
    """Although every worker is in the middle of ten minutes of evaluation; then it goes on."""
    kind = trial.index % 3
    workers = {"workers": {"pool": "local", "count": 2}}
    # The baselines are quick, the search is not.
    slow = {f"c{number:05d}": "sleep once" for number in range(4, 10)}
    file = write_toy_campaign(trial.folder, workers, faults=slow)
    child = start(file)
    wait_for(lambda: results_in(trial.folder) >= 8)
    numbers = [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)][kind]
    for number in numbers:
        os.kill(child, number)
        time.sleep(0.05)
    assert ended(child, 120.0) == (75 if kind == 0 else 130)
    if kind < 2:
        assert events_of(trial.folder / RUN)[-1]["reason"] == ("stopped", "interrupted")[kind]
    write_toy_campaign(trial.folder)
    return finish(trial, file, 1)


@row("F9", "a second driver on the campaign", quick=4, t1=50, t2=200)
def test_f09_a_second_driver_is_refused(trial: Trial) -> Tally:
    """At once, by the holder's name, and without a byte in the ledger; the first one does not notice."""
    file = write_toy_campaign(trial.folder, seconds=0.002)
    run = trial.folder / RUN
    run.mkdir()
    with RecordFile.open(ledger_of(trial.folder), create=True):
        others = [start(file), start(file)]
        assert [ended(child, 240.0) for child in others] == [6, 6]
        assert ledger_of(trial.folder).read_bytes() == b""
    text = (trial.folder / "driver.txt").read_text()
    assert "error[E501]" in text
    assert f"pid {os.getpid()}" in text
    # Both at once, with nobody there before: one runs, the other is refused or finds it finished.
    race = [start(file), start(file)]
    assert sorted(ended(child, 240.0) for child in race) in ([0, 0], [0, 6])
    return judge(trial.folder, 3)


@row("F15", "another number of workers in each session", quick=2, t1=3, t2=10)
def test_f15_other_numbers_of_workers(trial: Trial) -> Tally:
    """Two workers, one, four: the same front."""
    counts = trial.rng.sample((1, 2, 4), 3)
    stopped = 0
    for count in counts:
        workers = {"workers": {"pool": "local", "count": count}}
        file = write_toy_campaign(trial.folder, workers, seconds=0.01)
        last = count == counts[-1]
        try:
            session(file, stop_request=(lambda: None) if last else stop_after(8, Stopped))
        except Stopped:
            stopped += 1
    return judge(trial.folder, stopped)


@row("F35", "whoever watches is slow, gone, or without room", quick=3, t1=6, t2=12)
def test_f35_a_watcher_never_hurts(trial: Trial) -> Tally:
    """There are no trackers yet; the display watches, and may be slow, raise, or have lost its terminal."""
    kind = trial.index % 3
    file = write_toy_campaign(trial.folder)
    calls = [0]

    def watch(*_: object) -> None:
        calls[0] += 1
        if kind == 0:
            time.sleep(0.002)
        elif calls[0] == 9:
            raise OSError(5, "Input/output error")

    if kind < 2:
        session(file, observer=watch)
        assert calls[0] > 20 if kind == 0 else calls[0] == 9
        return judge(trial.folder, 1)
    child = start(file, said="/dev/full")
    assert ended(child, 240.0) == 0
    return judge(trial.folder, 1)
