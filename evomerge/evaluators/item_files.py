"""Items in files of our own kinds: one file for each split, or one file dealt out by content.

With one file an item's split follows from the hash of its content, half to search and a quarter each to
selection and test, so that equal items never land in two splits. The standard library and pydantic only.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PositiveInt

from evomerge.errors import Problem
from evomerge.evaluators.declaration import Declaration, Section
from evomerge.evaluators.items import Item, fixed_order, item_id, split_of
from evomerge.objectives.scores import SPLITS, Split
from evomerge.recipe.recipe import canonical_json

CHARACTERS_PER_TOKEN = 4


class SplitFiles(Section):
    """A file of items for each split, relative to the declaration's file.

    Attributes:
        search: whose items the search is told of.
        selection: whose items decide the front.
        test: whose items are scored at an export.
    """

    search: str
    selection: str
    test: str


@dataclass(frozen=True)
class SplitItems:
    """The items of one split in their fixed order, with the hash of each one's content."""

    ids: tuple[str, ...]
    items: tuple[Item, ...]


class ItemsDeclaration(Declaration):
    """A declaration whose items lie in files; `source` is the field that names them.

    Attributes:
        block_size: items per block; a batch never crosses a block.
    """

    source: ClassVar[str]

    block_size: PositiveInt = 50

    @abstractmethod
    def read(self, path: Path) -> list[Item]:
        """The items of a file.

        Raises:
            ValueError: if they cannot be read.
            OSError: if the file cannot.
        """

    def exists(self, path: Path) -> bool:
        """Whether a path is of the kind that items lie in: a file."""
        return path.is_file()

    def content_digest(self, path: Path) -> str:
        """SHA-256 (hex) of what lies at a path."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def files(self) -> dict[Split, Path]:
        """The file of each split; three times the same where one is dealt out."""
        named: str | SplitFiles = getattr(self, self.source)
        if isinstance(named, str):
            return dict.fromkeys(SPLITS, Path(named))
        return {split: Path(getattr(named, split)) for split in SPLITS}

    def beside(self, folder: Path) -> dict[str, Any]:
        """The source field with its paths made absolute, relative to `folder`."""
        named: str | SplitFiles = getattr(self, self.source)
        if isinstance(named, str):
            return {self.source: str((folder / named).resolve())}
        paths = {split: str((folder / getattr(named, split)).resolve()) for split in SPLITS}
        return {self.source: SplitFiles(**paths)}

    def inputs(self) -> list[tuple[str, Path]]:
        """The files of its items."""
        return [(self.source, path) for path in dict.fromkeys(self.files.values())]

    def splits(self) -> dict[Split, SplitItems]:
        """The items of every split.

        Raises:
            ValueError, OSError: as `read` says.
        """
        dealt = isinstance(getattr(self, self.source), str)
        found: dict[Split, SplitItems] = {}
        for split, path in self.files.items():
            items = self.read(path)
            ids = [item_id(item) for item in items]
            own = [i for i in range(len(items)) if not dealt or split_of(ids[i]) == split]
            order = [own[i] for i in fixed_order([ids[i] for i in own])]
            found[split] = SplitItems(tuple(ids[i] for i in order), tuple(items[i] for i in order))
        return found

    def problems(self, *, allow_code: bool = False) -> list[Problem]:
        """E101 a missing file, E102 an unreadable one, E128 splits without items or with common ones."""
        missing = sorted({path for path in self.files.values() if not self.exists(path)})
        if missing:
            return [
                self.fault(self.source, "E101", "no such file", f"found {p.name!r}") for p in missing
            ]
        try:
            splits = self.splits()
        except (ValueError, OSError) as error:
            return [self.fault(self.source, "E102", "the items cannot be read", str(error))]
        problems = []
        for split, items in splits.items():
            if not items.ids:
                wrong = f"the {split} split has no items"
                problems.append(self.fault(self.source, "E128", wrong, "", "give more items"))
            for other in SPLITS[: SPLITS.index(split)]:
                if shared := len({*items.ids} & {*splits[other].ids}):
                    wrong, text = f"{other} and {split} share items", f"{shared} are in both"
                    problems.append(self.fault(self.source, "E128", wrong, text))
        return problems

    def local_ids(self) -> dict[Split, tuple[str, ...]]:
        """Content hash of each item by split."""
        return {split: items.ids for split, items in self.splits().items()}

    def digest(self) -> str:
        """SHA-256 (hex) over the settings and the bytes of the files."""
        settings = self.model_dump(by_alias=True, exclude={self.source})
        named = getattr(self, self.source)
        settings["files"] = 0 if named is None else 1 if isinstance(named, str) else len(SPLITS)
        hasher = hashlib.sha256(canonical_json(settings).encode())
        for split, path in self.files.items():
            hasher.update(f"\n{split} {self.content_digest(path)}".encode())
        return hasher.hexdigest()

    def size(self) -> tuple[int, int]:
        """Search items, and their tokens at four characters each."""
        items = self.splits()["search"].items
        characters = sum(len(str(value)) for item in items for value in item.values())
        return len(items), characters // CHARACTERS_PER_TOKEN
