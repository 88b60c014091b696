"""Models in the local hub cache. Nothing here goes to a network."""

from __future__ import annotations

import re
from pathlib import Path

from evomerge.checkpoint.folder import (
    ADAPTER_FILES,
    INDEX_FILE,
    PICKLES,
    SINGLE_FILE,
    read_json,
)
from evomerge.errors import CheckpointError

HUB_NAME = re.compile(r"(?P<hub>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>[0-9a-f]{40})")
"""How a recipe or a command line names a hub model: `ORG/NAME@COMMIT`."""


def cached_snapshot(hub: str, revision: str) -> Path | None:
    """The folder of a hub model at a revision; None if it is not in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None


def download_hint(hub: str, revision: str) -> str:
    """What to do where a model or a part of it is not in the cache."""
    return (
        f"download it before the run: hf download {hub} --revision {revision} (a gated or private "
        "repository wants its terms accepted and `hf auth login` first)"
    )


def missing_files(snapshot: Path) -> tuple[str, ...]:
    """What a snapshot of a model or an adapter surely lacks; an interrupted download leaves such ones.

    The hub's client returns them as if they were whole. Looked for: config, weights, the shards an index
    names, and links to content that is not there.
    """
    names = {entry.name for entry in snapshot.iterdir()}
    broken = {name for name in names if not (snapshot / name).exists()}
    present = names - broken
    adapter = ADAPTER_FILES[0] in names and not {SINGLE_FILE, INDEX_FILE} & names
    config, *weights = ADAPTER_FILES if adapter else ("config.json", SINGLE_FILE)
    wanted = {config}
    shards = {name for name in names if re.fullmatch(r".+-of-\d+\.safetensors", name)}
    if SINGLE_FILE in present:
        pass  # read whatever else lies there
    elif INDEX_FILE in present:
        try:
            index = read_json(snapshot / INDEX_FILE, "E217", "index unreadable").get("weight_map")
        except CheckpointError:
            index = None  # opening the folder says what is wrong with it
        named = index.values() if isinstance(index, dict) else ()
        # A path that leaves the folder is a fault of its own, found where the folder is opened.
        wanted |= {file for file in named if isinstance(file, str) and Path(file).name == file}
    elif shards:
        wanted.add(INDEX_FILE)
    elif not any(name in weights or name.endswith(PICKLES) for name in names):
        wanted.add(weights[0])
    return tuple(sorted((wanted - present) | broken))
