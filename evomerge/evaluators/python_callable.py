"""Evaluators of others: Python functions that are installed, or registered in this process.

The name of an entry point of the group `evomerge.evaluators`, or the name given to the decorator of
`registered`, is the `kind` of a declaration. The function is called for each block of items as
`function(subject, items, options)` and gives, for each metric, a number for each item; order, splits,
blocks, means and standard errors are made here. It must leave the model as it was and, given
equal arguments, give equal numbers; `evomerge.testing.evaluators` checks that.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.item_evaluator import ItemEvaluator
from evomerge.evaluators.item_files import ItemsDeclaration, SplitFiles, SplitItems
from evomerge.evaluators.items import Item, item_id, json_lines
from evomerge.evaluators.registered import Function, registered
from evomerge.objectives.scores import SMOOTH, SPLITS, Split

if TYPE_CHECKING:
    from evomerge.evaluators.evaluator import Subject

GROUP = "evomerge.evaluators"

Better = Literal["maximize", "minimize", "either"]


class CallableDeclaration(ItemsDeclaration):
    """An evaluator whose measuring is an installed Python function.

    Attributes:
        kind: name of the entry point.
        metrics: metric to the direction in which it gets better.
        items: a JSON-lines file, dealt out by content, or one file for each split. Without it the
            function measures the model itself: it is given one empty item.
        options: handed to the function as they are.
    """

    source: ClassVar[str] = "items"

    metrics: Annotated[dict[str, Better], Field(min_length=1)]
    items: str | SplitFiles | None = None
    options: Annotated[dict[str, Any], Field(default_factory=dict)]

    @field_validator("metrics")
    @classmethod
    def _no_smooth_names(cls, value: dict[str, Better]) -> dict[str, Better]:
        if any(name.endswith(SMOOTH) for name in value):
            raise ValueError("E136", f"a metric's name must not end in `{SMOOTH}`, as smooth values do")
        return value

    @property
    def files(self) -> dict[Split, Path]:
        """The file of each split; none where the model itself is measured."""
        return {} if self.items is None else super().files

    def beside(self, folder: Path) -> dict[str, Any]:
        """`items` with absolute paths."""
        return {} if self.items is None else super().beside(folder)

    def read(self, path: Path) -> list[Item]:
        """The lines of a file."""
        return json_lines(path)

    def splits(self) -> dict[Split, SplitItems]:
        """The items of every split."""
        if self.items is None:
            return {split: SplitItems((item_id({"split": split}),), ({},)) for split in SPLITS}
        return super().splits()

    def directions(self) -> dict[str, bool | None]:
        """Full metric name to whether higher is better."""
        higher = {"maximize": True, "minimize": False, "either": None}
        return {f"{self.name}.{metric}": higher[better] for metric, better in self.metrics.items()}

    def digest(self) -> str:
        """SHA-256 (hex) over settings, items, and version and source file of the function."""
        hasher = hashlib.sha256(super().digest().encode())
        if self.kind in registered():
            hasher.update(registered()[self.kind].digest.encode())
            return hasher.hexdigest()
        entry = entry_points()[self.kind]
        hasher.update(f"\n{entry.value} {entry.dist.version if entry.dist else ''}".encode())
        spec = importlib.util.find_spec(entry.module)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            hasher.update(hashlib.sha256(Path(spec.origin).read_bytes()).digest())
        return hasher.hexdigest()

    def function(self) -> Function:
        """The installed function, imported.

        Raises:
            ConfigError: E123, if it cannot be imported or called.
        """
        if self.kind in registered():
            return registered()[self.kind].function
        entry = entry_points()[self.kind]
        try:
            function = entry.load()
        except Exception as error:
            # Third-party modules fail in any way they like when they are imported.
            found = f"{type(error).__name__}: {error}"
            raise ConfigError(self._unusable(f"{entry.value} cannot be imported", found)) from error
        if not callable(function):
            raise ConfigError(self._unusable(f"{entry.value} is no function", f"found {function!r}"))
        called: Function = function
        return called

    def _unusable(self, wrong: str, found: str) -> Problem:
        return self.fault("kind", "E123", wrong, found)


class CallableEvaluator(ItemEvaluator):
    """Calls the function block by block."""

    declaration: CallableDeclaration

    def __init__(self, declaration: CallableDeclaration) -> None:
        super().__init__(declaration)
        self.function = declaration.function()

    def measure(self, subject: Subject, items: Sequence[Item]) -> Mapping[str, Sequence[float]]:
        """What the function gives, checked.

        Raises:
            ConfigError: E124, if these are other metrics than declared, or not a number for each item.
        """
        declared = self.declaration
        given: Any = self.function(subject, list(items), dict(declared.options))
        names = sorted(given) if isinstance(given, Mapping) else [type(given).__name__]
        if names != sorted(declared.metrics):
            wrong = f"the function of `{declared.kind}` gives other metrics than are declared"
            raise ConfigError(declared.fault("metrics", "E124", wrong, f"it gives: {', '.join(names)}"))
        values: dict[str, list[float]] = {}
        for name, numbers in given.items():
            try:
                array = np.asarray(numbers, dtype=np.float64)
                shape: object = array.shape
                values[name] = array.ravel().tolist()
            except (TypeError, ValueError) as error:
                shape = str(error)
            if shape != (len(items),):
                wrong = f"`{name}` needs one number for each of {len(items)} items"
                raise ConfigError(declared.fault("metrics", "E124", wrong, f"found shape {shape}"))
        return values


def entry_points() -> dict[str, metadata.EntryPoint]:
    """Installed functions by kind, in alphabetical order."""
    found = metadata.entry_points(group=GROUP)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}
