"""The models a mergekit YAML names: found on this machine, opened, and called by plain names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.campaign.checkpoint_reference import NAME, RESERVED_NAMES
from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.hub import cached_snapshot, download_hint, missing_files
from evomerge.checkpoint.open import open_source
from evomerge.errors import CheckpointError, ConfigError, EvomergeError, Problem
from evomerge.mergekit.document import Document, ModelRef
from evomerge.recipe.recipe import UNION

Folder = CheckpointFolder | AdapterFolder

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class Models:
    """Opened models by the names a recipe gives them; filled while a document is read.

    Attributes:
        folders: by name.
        hubs: `ORG/NAME@COMMIT` of each that came from the hub's cache.
        notes: what a person should know, one line each.
    """

    document: Document
    folders: dict[str, Folder] = field(default_factory=dict)
    hubs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _names: dict[ModelRef, str] = field(default_factory=dict)

    def name(self, model: ModelRef, wanted: str = "") -> str:
        """The name of a model, which is opened when it is met first; an adapter brings its model.

        Raises:
            CheckpointError: E201 not on this machine; others as in opening.
        """
        if model in self._names:
            return self._names[model]
        if not model.lora:
            path = self._locate(model.path, model.revision, model)
            name = wanted or self._free_name(Path(model.path).name)
            self._keep(model, name, path[0], path[1], None)
            return name
        full = self.name(model.full, "" if "base" in self.folders else "base")
        opened = self.folders[full]
        assert isinstance(opened, CheckpointFolder)
        path = self._locate(model.lora, model.lora_revision, model)
        name = self._free_name(Path(model.lora).name)
        self._keep(model, name, path[0], path[1], opened)
        return name

    @property
    def paths(self) -> Mapping[str, str]:
        """The folder of each."""
        return {name: str(folder.path) for name, folder in self.folders.items()}

    def _keep(
        self, model: ModelRef, name: str, path: Path, hub: str, base: CheckpointFolder | None
    ) -> None:
        try:
            opened = open_folder(path, name) if base is None else open_source(path, name, base)
        except EvomergeError as error:
            raise CheckpointError(error.problems) from error
        self.folders[name] = opened
        self._names[model] = name
        if hub:
            self.hubs[name] = hub

    def _free_name(self, wanted: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_-")[:60] or "model"
        reserved = plain in (*RESERVED_NAMES, UNION) or re.fullmatch(r"c\d+|single-.*", plain)
        if reserved or not NAME.fullmatch(plain):
            plain = f"m_{plain}"
        name, number = plain, 2
        while name in self.folders:
            name, number = f"{plain}_{number}", number + 1
        return name

    def _locate(self, path: str, revision: str, model: ModelRef) -> tuple[Path, str]:
        """(folder, hub name or empty). A folder is looked for beside the file, then where we are."""
        if not revision:
            here = Path(path).expanduser()
            for folder in (Path(self.document.file).parent / here, here):
                if folder.exists():  # opening a file says what is wrong with it
                    return folder.resolve(), ""
        if not _HUB.fullmatch(path):
            todo = "paths are relative to this file, or to the folder the command runs in"
            problem = self.document.problem("E201", model.where, "no such model folder", path, todo)
            raise CheckpointError(problem)
        wanted = revision or "main"
        found = cached_snapshot(path, wanted)
        todo = download_hint(path, wanted)
        if found is None:
            wrong = f"revision {wanted} of {path} is not in the local hub cache"
            if not revision:
                wrong = f"no such folder, and {wrong}"
                parent = Path(self.document.file).parent / Path(path).parent
                beside = [e.name for e in parent.iterdir() if e.is_dir()] if parent.is_dir() else []
                if near := difflib.get_close_matches(Path(path).name, beside, n=1):
                    todo = f"did you mean `{Path(path).parent / near[0]}`? Else {todo}"
            raise CheckpointError(self.document.problem("E201", model.where, wrong, todo=todo))
        if missing := missing_files(found):
            wrong = f"the download of {path} lacks {len(missing)} files: {', '.join(missing[:5])}"
            raise CheckpointError(self.document.problem("E238", model.where, wrong, todo=todo))
        if not _COMMIT.fullmatch(wanted):
            self.notes.append(f"{path}: {wanted} is commit {found.name} here")
        if not _COMMIT.fullmatch(found.name):
            raise ConfigError(Problem("E237", f"{path}: no commit in {found}", file=self.document.file))
        return found, f"{path}@{found.name}"
