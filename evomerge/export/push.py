"""An export uploaded to a hub, by the hub's own client."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import EnvironmentFault, ExportCheckFailed, Problem, UsageError
from evomerge.export.files import MANIFEST_FILE, check_manifest

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What a repository is called: `OWNER/NAME`."""


@dataclass(frozen=True)
class Pushed:
    """What was uploaded where: the repository's address, the commit, whether others can see it."""

    url: str
    commit: str
    private: bool
    files: int


def push_folder(folder: Path, repository: str, *, public: bool = False) -> Pushed:
    """Upload an export, every file as its manifest states it, as one commit.

    Args:
        folder: what `export` or `merge` wrote.
        repository: `OWNER/NAME`; made if it is not there.
        public: whether everybody may see it. A repository that is public already is refused otherwise.

    Raises:
        UsageError: E500, no name of a repository, no export there, or the repository is public.
        ExportCheckFailed: E602, a file is not as it was published.
        EnvironmentFault: E408, the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    # HTTPError is that of the HTTP library which this release of the client takes.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    if not REPOSITORY.fullmatch(repository):
        raise UsageError(Problem("E500", f"`{repository}` is no repository", "", "give OWNER/NAME"))
    if not (folder / MANIFEST_FILE).is_file():
        wrong, todo = "this is no export", "give a folder that `evomerge export` wrote"
        raise UsageError(Problem("E500", wrong, f"it has no {MANIFEST_FILE}", todo, str(folder)))
    differences = check_manifest(folder)
    if differences:
        wrong, todo = (
            "files are not as they were exported",
            "export again; a card may be changed on the hub",
        )
        raise ExportCheckFailed(Problem("E602", wrong, "; ".join(differences[:3]), todo, str(folder)))
    files = len(json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]) + 1
    api = HfApi(library_name="evomerge")
    try:
        url = api.create_repo(repository, private=not public, exist_ok=True)
        private = bool(api.model_info(repository).private)
        if not private and not public:
            wrong, todo = f"everybody can see {repository}", "give --public, or another repository"
            raise UsageError(Problem("E500", wrong, "it is public already", todo))
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"{folder.name}, merged with evomerge",
        )
    except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        # The client's messages may hold addresses with what was asked; never the token.
        found = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        todo = "see `hf auth whoami`, HF_TOKEN and HF_HUB_OFFLINE; nothing here was changed"
        raise EnvironmentFault(
            Problem("E408", f"{api.endpoint} did not take it", found, todo)
        ) from error
    return Pushed(str(url), str(commit.oid), private, files)
