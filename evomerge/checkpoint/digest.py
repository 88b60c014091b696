"""Content digests: what the weights are, wherever and however the folder lies."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CheckpointError, Problem

_BLOCK = 1 << 22
_SAMPLE, _SAMPLES = 1 << 16, 32


def content_digest(folder: CheckpointFolder | AdapterFolder) -> str:
    """SHA-256 (hex) over the content of the weight files, and of `adapter_config.json` for an adapter.

    The digest of the files' sorted digests, so that neither the folder's nor a shard's name is in it.
    """
    return _combined({path.name: _file_digest(path) for path in _files(folder)})


def surely_differ(
    one: CheckpointFolder | AdapterFolder, other: CheckpointFolder | AdapterFolder
) -> bool:
    """Whether content digests are not the same, by the sizes and a few blocks of the files.

    At most 2 MB of each file are read. False says nothing: what was not read may differ.
    """
    return sorted(map(_sampled, _files(one))) != sorted(map(_sampled, _files(other)))


class WeightFiles:
    """Notices that weight files changed, by what the file system says of them; hashes them only then.

    What was found of each file is kept in memory and, for other processes of this machine, under
    `directory`, so that a look at unchanged files costs a `stat` each.
    """

    def __init__(
        self, folders: Mapping[str, CheckpointFolder | AdapterFolder], directory: Path
    ) -> None:
        self._folders = folders
        self._directory = directory
        self._known: dict[str, _Found] = {}

    def digest(self, name: str) -> str:
        """The content digest of `base` or an expert, as `content_digest` gives it.

        Reads only what is not as it was when it was read last, by whomever on this machine.
        """
        found = self._looked_at(name, self._known.get(name) or self._recorded(name))
        self._keep(name, found)
        return _combined_found(found)

    def check(self, digests: Mapping[str, str]) -> None:
        """See that checkpoints (by name) still have these content digests.

        Raises:
            CheckpointError: E239, naming the files that changed; E240, if one is gone.
        """
        problems = []
        for name, digest in digests.items():
            before = self._known.get(name) or self._recorded(name)
            try:
                found = self._looked_at(name, before)
            except OSError as error:
                path, wrong = str(error.filename), "a weight file cannot be read any more"
                problems.append(Problem("E240", wrong, str(error.strerror), file=path, field=name))
                continue
            if _combined_found(found) == digest:
                if found != self._known.get(name):
                    self._keep(name, found)
                continue
            changed = [file for file, (_, sha) in found.items() if before.get(file, _NEW)[1] != sha]
            problems += [
                Problem(
                    "E239",
                    f"the weights of `{name}` changed since the campaign began",
                    "the SHA-256 is another",
                    "restore them, then run again",
                    file=str(self._folders[name].path / file),
                )
                for file in (changed if before else [""])
            ]
        if problems:
            raise CheckpointError(problems)

    def _looked_at(self, name: str, before: _Found) -> _Found:
        """State and digest of each file; only what is not as it was `before` is read."""
        found: _Found = {}
        for path in _files(self._folders[name]):
            # Its state first: a change while it is read shows at the next look.
            state = _stat(path)
            old = before.get(path.name, _NEW)
            found[path.name] = (state, old[1] if old[0] == state else _file_digest(path))
        return found

    def _keep(self, name: str, found: _Found) -> None:
        self._known[name] = found
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(dir=self._directory)
        with os.fdopen(descriptor, "w") as file:
            json.dump(found, file)
        os.replace(scratch, self._place(name))

    def _place(self, name: str) -> Path:
        # Machines that share a campaign folder may keep the models in file systems of their own.
        where = json.dumps([socket.gethostname(), str(self._folders[name].path.resolve())])
        return self._directory / f"files-{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"

    def _recorded(self, name: str) -> _Found:
        try:
            data: Any = json.loads(self._place(name).read_bytes())
            return {str(file): (list(map(int, state)), str(sha)) for file, (state, sha) in data.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # nothing of ours, or cut short: the files are read again


_Found = dict[str, tuple[list[int], str]]
_NEW: tuple[list[int], str] = ([], "")


def _stat(path: Path) -> list[int]:
    """What changes with a file's content: no writer can leave all of these as they were."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _files(folder: CheckpointFolder | AdapterFolder) -> list[Path]:
    extra = ["adapter_config.json"] if isinstance(folder, AdapterFolder) else []
    return [folder.path / name for name in (*folder.files, *extra)]


def _combined_found(found: _Found) -> str:
    return _combined({file: sha for file, (_, sha) in found.items()})


def _combined(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests.values())).encode()).hexdigest()


def _sampled(path: Path) -> tuple[int, str]:
    """Size in bytes, and the SHA-256 (hex) of blocks all over: fine-tuning may leave the first as it is."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return size, digest.hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
