"""Paths that files name relative to themselves, as they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.files.paths import without_detours


@pytest.mark.parametrize("name", ["b/../c.yaml", "./b/.././c.yaml", "none/../c.yaml", "c.yaml"])
def test_a_path_is_shown_without_detours(tmp_path: Path, name: str) -> None:
    (tmp_path / "b").mkdir()
    assert without_detours(tmp_path / name) == tmp_path / "c.yaml"


def test_a_path_through_a_link_stays_where_another_file_would_be_named(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "b").symlink_to(tmp_path / "far" / "away")
    path = tmp_path / "b" / ".." / "c.yaml"
    assert without_detours(path) == path
    assert without_detours(tmp_path / "b" / "x" / ".." / "c.yaml") == tmp_path / "b" / "c.yaml"


def test_what_is_no_path_is_left_to_whoever_opens_it() -> None:
    assert without_detours(Path("a\0/../b")) == Path("a\0/../b")
