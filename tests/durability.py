"""A disk that forgets what was not synced: what of a folder would be left if the power failed now.

`os.fsync` is watched and nothing else, since nothing else promises anything. Two bad ends are told apart,
because file systems may write names and contents in either order:

- *late*: a folder has the names of its last fsync, a file the content of its last fsync;
- *early*: a folder has the names it has now, a file the length it has now, and zeros where it was not synced.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal
from unittest import mock

End = Literal["late", "early"]
ENDS: tuple[End, ...] = ("late", "early")
Left = dict[str, bytes]
"""Relative path to content; folders end in `/`."""

_Key = tuple[int, int]


class Disk:
    """What is on the disk of `root` and everything below it; all that is there at first is.

    Watches while it is used as a context manager. `moments` are called with the disk just before and just
    after each fsync. Links are not followed and not kept.
    """

    def __init__(self, root: Path, *moments: Callable[[Disk], object]) -> None:
        self.root = root
        self.moments = list(moments)
        self.syncs = 0
        self._files: dict[_Key, bytes] = {}
        self._folders: dict[_Key, dict[str, _Key]] = {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Disk:
        for folder, _, names in os.walk(self.root):
            for path in (Path(folder), *(Path(folder) / name for name in names)):
                if not path.is_symlink():
                    self._take(path)
        self._held.enter_context(mock.patch.object(os, "fsync", self._fsync))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def left(self, end: End) -> Left:
        """Everything below `root` that would be left."""
        return dict(
            self._left_late(_key(os.stat(self.root)), "") if end == "late" else self._left_early()
        )

    def _left_late(self, folder: _Key, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, key in self._folders.get(folder, {}).items():
            if key in self._folders:
                yield f"{prefix}{name}/", b""
                yield from self._left_late(key, f"{prefix}{name}/")
            else:
                yield prefix + name, self._files.get(key, b"")

    def _left_early(self) -> Iterator[tuple[str, bytes]]:
        for folder, folders, names in os.walk(self.root):
            prefix = Path(folder).relative_to(self.root).as_posix() + "/"
            prefix = "" if prefix == "./" else prefix
            for name in folders:
                yield f"{prefix}{name}/", b""
            for name in names:
                found = os.lstat(os.path.join(folder, name))
                if stat.S_ISREG(found.st_mode):
                    known = self._files.get(_key(found), b"")[: found.st_size]
                    yield prefix + name, known.ljust(found.st_size, b"\0")

    def _fsync(self, descriptor: int) -> None:
        for moment in self.moments:
            moment(self)
        self._take(Path(f"/proc/self/fd/{descriptor}"))
        self.syncs += 1
        for moment in self.moments:
            moment(self)

    def _take(self, path: Path) -> None:
        """Take a file or folder as it is now."""
        found = os.stat(path)
        key = self._hold(path, found)
        if not stat.S_ISDIR(found.st_mode):
            self._files[key] = path.read_bytes()
            return
        names = {}
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_symlink():
                    names[entry.name] = self._hold(Path(entry.path), os.stat(entry.path))
        self._folders[key] = names

    def _hold(self, path: Path, found: os.stat_result) -> _Key:
        """Keep what is seen open, so that its number is given to nothing else."""
        key = _key(found)
        if key not in self._files and key not in self._folders:
            self._held.callback(os.close, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if stat.S_ISDIR(found.st_mode):
                self._folders[key] = {}
            else:
                self._files[key] = b""
        return key


def _key(found: os.stat_result) -> _Key:
    return found.st_dev, found.st_ino


def below(left: Mapping[str, bytes], folder: str) -> Left:
    """What is left below one folder, by paths relative to it."""
    prefix = f"{folder}/"
    return {
        path[len(prefix) :]: data
        for path, data in left.items()
        if path.startswith(prefix) and path != prefix
    }


def write(left: Mapping[str, bytes], folder: Path) -> None:
    """Make a folder that holds what is left."""
    folder.mkdir(parents=True)
    for path, data in left.items():
        if path.endswith("/"):
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).write_bytes(data)


def content(folder: Path) -> Left:
    """What a folder holds as everybody sees it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[f"{name}/" if path.is_dir() else name] = b"" if path.is_dir() else path.read_bytes()
    return found
