"""The ledger is cut, flipped, or cannot be written: F5, F6, F23, F36."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from evomerge.cli.verify.invariants import verify
from evomerge.errors import Stopped
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE
from tests.faults.bed import (
    RUN,
    SCHEDULES,
    doubled_results,
    end_of,
    finish,
    ledger_of,
    run_command,
    session,
    stop_after,
    undisturbed,
    write_toy_campaign,
)
from tests.faults.harness import Tally, Trial, row
from tests.faults.sessions import ACKNOWLEDGED, command
from tests.tiny_runs import events_of, forked


@row("F5", "the ledger cut at every byte of its last three records", quick=40, t1=1200, t2=1200)
def test_f05_a_cut_ledger_goes_on(trial: Trial) -> Tally:
    """Every 40th byte in each trial, from another first one, so that 40 trials cut at all of them."""
    schedule = trial.index % 2
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule])
    session(file)
    path = ledger_of(trial.folder)
    data = path.read_bytes()
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    start, step = ends[-4] + 1, 40
    sound = Tally()
    for cut in range(start + trial.index // 2 % step, len(data), step):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        session(file)
        events = events_of(trial.folder / RUN)
        lost = sum(
            json.loads(line[9:]) != event
            for line, event in zip(data.split(b"\n")[:whole], events, strict=False)
        )
        different = int(end_of(trial.folder / RUN) != undisturbed(schedule))
        sound += Tally(1, lost, doubled_results(events), 1, different)
    assert verify(trial.folder / RUN) == []
    return sound


@row("F6", "one bit flipped in the middle of the ledger", quick=12, t1=200, t2=2000)
def test_f06_a_flipped_bit_is_found_and_repaired(trial: Trial) -> Tally:
    """Exit 7 with record and byte, nothing changed; `repair` makes a copy that comes to the same end."""
    rng, schedule = trial.rng, trial.index % 2
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule])
    session(file)
    path = ledger_of(trial.folder)
    data = path.read_bytes()
    last = data.rstrip(b"\n").rfind(b"\n")
    total = Tally()
    for number in range(6):
        place = rng.randrange(last)
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        record = data[:place].count(b"\n")
        assert refused(trial.folder, file) == 7
        assert f"record {record} at byte" in (trial.folder / "said.txt").read_text()
        assert path.read_bytes() == damaged
        total += Tally(injections=1)
        if number or not record:
            continue
        out = trial.folder / "copy"
        assert command("repair", trial.folder / RUN, out, "--json") == 0
        assert path.read_bytes() == damaged
        assert len(events_of(out)) == record
        assert command("run", file, "--dir", out, "--json") == 0
        assert verify(out) == []
        doubled = doubled_results(events_of(out))
        total += Tally(0, 0, doubled, 1, int(end_of(out) != undisturbed(schedule)))
    return total


def refused(folder: Path, file: Path) -> int:
    """Exit code of a run whose words go to `said.txt`."""
    with (folder / "said.txt").open("w") as said, contextlib.redirect_stderr(said):
        return run_command(file)


def test_repair_ends_where_item_results_are_damaged(tmp_path: Path) -> None:
    file = write_toy_campaign(tmp_path)
    session(file)
    segment = tmp_path / RUN / ITEMS_FOLDER / "birds.bin"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 4
    segment.write_bytes(data)
    assert command("verify", tmp_path / RUN) == 7
    out = tmp_path / "copy"
    assert command("repair", tmp_path / RUN, out) == 0
    assert verify(out) == []
    events, kept = events_of(tmp_path / RUN), events_of(out)
    assert events[: len(kept)] == kept
    assert events[len(kept)]["event"] == "evaluated"
    assert command("run", file, "--dir", out) == 0
    assert end_of(out) == undisturbed()
    assert command("repair", tmp_path / RUN, out) == 2, "an existing folder is never written to"
    assert command("repair", tmp_path / "models", tmp_path / "new") == 2


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes over a folder; needs root."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "evomerge-test", str(folder)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    folder.mkdir()
    try:
        with small_disk(folder, 2**16):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


@row("F23", "no room left for the ledger", quick=4, t1=10, t2=50)
def test_f23_a_full_disk(trial: Trial) -> Tally:
    """Exit 5 and a sound ledger, at different fill levels; with room again it goes on."""
    schedule = trial.index % 2
    file = write_toy_campaign(trial.folder, SCHEDULES[schedule])
    limit = trial.rng.randrange(6_000, 20_000)
    if trial.index % 2 == 0 and can_mount(trial.folder / "probe"):
        (trial.folder / RUN).mkdir()
        # The whole folder takes some twenty pages.
        with small_disk(trial.folder / RUN, 4096 * (limit // 2000)):
            code = forked(lambda: os._exit(run_command(file)))
            shutil.copytree(trial.folder / RUN, trial.folder / "moved")
        (trial.folder / RUN).rmdir()
        (trial.folder / "moved").rename(trial.folder / RUN)
    else:
        code = forked(lambda: limited(file, limit))
    assert code == 5, code
    assert verify(trial.folder / RUN) == []
    return finish(trial, file, 1, schedule)


def limited(file: Path, limit: int) -> None:
    """Run in a process whose files cannot grow beyond `limit` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os._exit(run_command(file))


@row("F36", "a worker that prints without end, a read-only folder", quick=2, t1=4, t2=8)
def test_f36_noise_and_folders_that_cannot_be_written(trial: Trial) -> Tally:
    """What workers print is kept up to a limit; a folder that turns read-only is exit 5 by name."""
    if trial.index % 2 == 0:
        noisy = {"workers": {"pool": "local", "count": 1}}
        megabytes = 64 if trial.index < 4 else 1000
        file = write_toy_campaign(trial.folder, noisy, faults={"c00003": f"print:{megabytes}"})
        with (trial.folder / "said.txt").open("wb") as said:
            assert forked(lambda: (os.dup2(said.fileno(), 2), os._exit(run_command(file)))) == 0
        assert (trial.folder / "said.txt").stat().st_size < 4_000_000
        return finish(trial, file, 1)
    file = write_toy_campaign(trial.folder)
    with contextlib.suppress(Stopped):
        session(file, stop_request=stop_after(10, Stopped))
    run, path = trial.folder / RUN, ledger_of(trial.folder)
    before = path.read_bytes()
    if not can_mount(trial.folder / "probe"):
        run.chmod(0o500)
        code = refused(trial.folder, file) if os.geteuid() else 5
        run.chmod(0o700)
    else:
        subprocess.run(["mount", "--bind", str(run), str(run)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(run)], check=True)
            # The toys' own notes lie beside the folder, and stay writable.
            code = refused(trial.folder, file)
        finally:
            subprocess.run(["umount", str(run)], check=True)
        assert LEDGER_FILE in (trial.folder / "said.txt").read_text()
        assert "E408" in (trial.folder / "said.txt").read_text()
    assert code == 5
    assert path.read_bytes() == before
    assert (trial.folder / ACKNOWLEDGED).exists()
    return finish(trial, file, 1)
