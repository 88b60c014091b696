"""Files that appear whole, and what is left where they cannot."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from evomerge.errors import EnvironmentFault
from evomerge.files.storage import written_whole


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with written_whole(path) as made:
        made.write_text("a")
        assert not path.exists()
    assert path.read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "found", "words"),
    [
        (OSError(errno.ENOSPC, "full"), EnvironmentFault, r"E403\].*no room to write; full"),
        (OSError(errno.EACCES, "mine"), EnvironmentFault, r"E408\].*cannot write; mine"),
        (ValueError("other"), ValueError, "^other$"),
    ],
)
def test_what_was_there_stays_where_the_block_fails(
    tmp_path: Path, error: Exception, found: type[Exception], words: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("before")

    def write() -> None:
        with written_whole(path) as made:
            made.write_text("half")
            raise error

    with pytest.raises(found, match=words):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "table.csv"
    with pytest.raises(EnvironmentFault, match=r"E408.*file/table\.csv"), written_whole(path):
        raise AssertionError("nothing can be written")
    assert (tmp_path / "file").read_bytes() == b""
