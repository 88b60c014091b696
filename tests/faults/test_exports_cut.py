"""Exports are cut short: F24, F25. (F2 kills them at every step by name.)"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

from safetensors.torch import load_file

from evomerge.errors import EnvironmentFault
from evomerge.export.files import check_manifest
from tests.faults.harness import Tally, Trial, row
from tests.faults.test_driver_stopped import campaign_copy, export, older_export
from tests.tiny_runs import forked


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of an export but its card and manifest, which tell of time and counts."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name not in ("README.md", "evomerge.json")
    }


@row("F24", "no room left for an export", quick=4, t1=10, t2=50)
def test_f24_a_full_disk_under_an_export(trial: Trial) -> Tally:
    """Exit 5 at any fill level; the target is as it was, and nothing lies beside it."""
    out, over = trial.folder / "out", trial.index % 2 == 1
    if over:
        shutil.copytree(older_export(), out)
    before = content(out) if over else {}
    limit = trial.rng.randrange(100, 35_000)
    campaign_copy()  # before files are limited

    def export_into_little() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            export(out)
        except EnvironmentFault as error:
            os._exit(error.exit_code)

    assert forked(export_into_little) == 5
    assert (content(out) if out.exists() else {}) == before
    assert [path.name for path in trial.folder.iterdir()] == (["out"] if over else [])
    return Tally(injections=1)


@row("F25", "SIGKILL during an export, also over another", quick=5, t1=20, t2=200)
def test_f25_an_export_killed_at_random_moments(trial: Trial) -> Tally:
    """The folder is wholly old or wholly new, and loads: no mixture of two models."""
    out, over = trial.folder / "out", trial.index % 2 == 1
    export(out)
    new = content(out)
    shutil.rmtree(out)
    if over:
        shutil.copytree(older_export(), out)
    kills = mixed = 0
    longest = 0.4
    while kills < 4:
        code = forked(lambda: export(out), kill_after=trial.rng.uniform(0.0, longest))
        if out.exists():
            found = content(out)
            mixed += found not in (new, content(older_export())) or check_manifest(out) != []
            load_file(out / "model.safetensors")
        elif over:
            mixed += 1  # between two renames it may be gone, but only until the next start
        # Sooner where exports end before they are killed, later where they hardly begin.
        longest *= 0.7 if code == 0 else 1.3
        kills += code != 0
    export(out)
    assert content(out) == new
    assert [path.name for path in trial.folder.iterdir()] == ["out"]
    return Tally(injections=kills, fronts=kills, differing=mixed)
