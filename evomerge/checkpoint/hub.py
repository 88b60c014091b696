"""Models in the local hub cache. Nothing here goes to a network."""

from __future__ import annotations

import re
from pathlib import Path

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
