"""A mergekit YAML as data: what it says, with lines. `form` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.errors import ConfigError, Problem
from evomerge.files.yaml_file import Positions, dotted, position
from evomerge.mergekit.methods import SpokenMethod
from evomerge.mergekit.settings import Setting

Where = tuple[str | int, ...]
Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class ModelRef:
    """`PATH@REVISION+LORA@REVISION` as written, and where."""

    path: str
    revision: str = ""
    lora: str = ""
    lora_revision: str = ""
    where: Where = field(default=(), compare=False)

    @property
    def full(self) -> ModelRef:
        """The same without the adapter."""
        return ModelRef(self.path, self.revision, where=self.where)


@dataclass(frozen=True)
class TokenEntry:
    """Where the row of a token comes from: a model (None: zeros), and which token of it (None: the same)."""

    model: ModelRef | None
    token: str | int | None
    force: bool
    where: Where


@dataclass(frozen=True)
class SourceEntry:
    """One input of a slice; `layers` is None for a whole model."""

    model: ModelRef
    layers: tuple[int, int] | None
    settings: Settings
    where: Where


@dataclass(frozen=True)
class SliceEntry:
    """A run of output layers."""

    sources: tuple[SourceEntry, ...]
    base: ModelRef | None
    settings: Settings
    where: Where


@dataclass(frozen=True)
class Document:
    """A whole file.

    Attributes:
        method: what is done.
        slices: in output order; `models` is one slice of whole models.
        whole: whether the file says `models`.
        tokenizer: `union`, `base`, a model, or None if the file does not say.
        tokens: where the rows of single tokens come from.
        multiple: of what the number of rows is to be one; 0 if the file does not say.
        chat_template: as written; empty if the file does not say.
    """

    file: str
    positions: Positions
    method: SpokenMethod
    base: ModelRef | None
    slices: tuple[SliceEntry, ...]
    whole: bool
    settings: Settings
    dtype: str | None
    out_dtype: str | None
    tokenizer: str | ModelRef | None
    tokens: Mapping[str, TokenEntry]
    multiple: int
    chat_template: str
    notes: tuple[str, ...]

    def problem(
        self, code: str, where: Where, wrong: str, found: object = "", todo: str = ""
    ) -> Problem:
        """A problem at a place of the file."""
        line, column = position(self.positions, where)
        shown = f"found {found!r}" if found != "" else ""
        return Problem(code, wrong, shown, todo, self.file, line, column, dotted(where))

    def error(
        self, code: str, where: Where, wrong: str, found: object = "", todo: str = ""
    ) -> ConfigError:
        """The same as an error."""
        return ConfigError(self.problem(code, where, wrong, found, todo))
