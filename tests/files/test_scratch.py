"""Folders for the moment: gone at the end, and those of killed processes at the next beginning."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from evomerge.files.scratch import scratch_folder
from tests.tiny_runs import forked


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_empty_and_goes(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        assert list(folder.iterdir()) == []
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_one(temporary: Path) -> None:
    def dies() -> None:
        with scratch_folder() as folder:
            (folder / "file").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(dies) == -signal.SIGKILL
    (left,) = temporary.iterdir()
    with scratch_folder() as folder:
        assert list(temporary.iterdir()) == [folder]
        assert folder != left
    assert list(temporary.iterdir()) == []


def test_those_of_live_processes_stay(temporary: Path) -> None:
    other = temporary / "evomerge-of-something-else"
    other.mkdir()
    with scratch_folder() as outer:
        (outer / "file").write_text("x")
        assert forked(lambda: scratch_folder().__enter__()) == 0
        with scratch_folder():
            assert (outer / "file").read_text() == "x"
    assert list(temporary.iterdir()) == [other]
