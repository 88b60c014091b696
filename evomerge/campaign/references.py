"""Checkpoints as words of a command line: a folder, or `org/name@COMMIT` from the local hub cache."""

from __future__ import annotations

import difflib
from pathlib import Path

from evomerge.campaign.check import locate
from evomerge.campaign.checkpoint_reference import CheckpointReference
from evomerge.checkpoint.hub import HUB_NAME
from evomerge.errors import CheckpointError, Problem


def reference_fields(text: str, field: str) -> dict[str, str]:
    """The fields of a campaign file's checkpoint reference; folders come back absolute.

    Raises:
        CheckpointError: E201, if it is neither a folder nor a hub id with a commit.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return {"path": str(path.resolve())}
    if match := HUB_NAME.fullmatch(text):
        return match.groupdict()
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    todo = "give a folder, or org/name@COMMIT with the 40 hex digits of a commit"
    if near:
        todo = f"did you mean {path.parent / near[0]}?"
    raise CheckpointError(Problem("E201", f"no model folder `{text}`", "", todo, field=field))


def model_folder(text: str, field: str) -> Path:
    """The folder of a checkpoint; hub models come from the local cache only.

    Raises:
        CheckpointError: E201, if it is not there.
    """
    return Path(locate(field, CheckpointReference.model_validate(reference_fields(text, field))))
