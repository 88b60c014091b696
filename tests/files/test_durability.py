"""Folders that appear whole do so on the disk as well: what was published outlives the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.files import staging
from evomerge.files.staging import recover
from evomerge.files.storage import make_folder, publish_file
from tests.durability import ENDS, Disk, End, Left, below, content, write
from tests.files.test_staging import names, publish, whole


@pytest.mark.parametrize("mode", ["new", "exchange", "two_renames"])
def test_a_published_folder_is_whole_at_every_moment(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "two_renames":
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    over = mode != "new"
    root = tmp_path / "disk"
    root.mkdir()
    if over:
        publish(root / "deep" / "out", "old")
    moments: list[Left] = []
    with Disk(root, lambda disk: moments.extend(map(disk.left, ENDS))) as disk:
        publish(root / "deep" / "out", "new", overwrite=over)
        published = [disk.left(end) for end in ENDS]
    assert all(below(left, "deep/out") == content(root / "deep" / "out") for left in published)
    for number, left in enumerate([*moments, *published]):
        again = tmp_path / str(number) / "deep" / "out"
        write(left, tmp_path / str(number))
        recover(again)
        if over or again.exists():
            assert whole(again) in (("old", "new") if over else ("new",))
        publish(again, "newer", overwrite=True)
        assert names(again.parent) == ["out"]


@pytest.mark.parametrize("end", ENDS)
def test_a_folder_that_is_put_back_stays(
    tmp_path: Path, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.evomerge-old-1")
    with Disk(tmp_path) as disk:
        recover(tmp_path / "out")
        assert below(disk.left(end), "out") == content(tmp_path / "out")
    assert whole(tmp_path / "out") == "old"


@pytest.mark.parametrize("end", ENDS)
def test_folders_are_made_durably(tmp_path: Path, end: End) -> None:
    with Disk(tmp_path) as disk:
        make_folder(tmp_path / "a" / "b" / "c")
        assert "a/b/c/" in disk.left(end)
        (tmp_path / "d").mkdir()
        make_folder(tmp_path / "d")  # whoever made it may have died before its name was durable
        assert "d/" in disk.left(end)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file"):
        make_folder(tmp_path / "file")


def test_a_file_that_is_published_is_never_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    seen: list[bytes] = []
    with Disk(tmp_path, lambda disk: seen.extend(disk.left(end)["file"] for end in ENDS)) as disk:
        (tmp_path / "made").write_text("new")
        publish_file(tmp_path / "made", tmp_path / "file")
        assert [disk.left(end) for end in ENDS] == [{"file": b"new"}] * 2
    assert set(seen) == {b"old", b"new"}
