"""What the declarations of all evaluator kinds have in common: name, metrics, faults, digest."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from evomerge.errors import Problem
from evomerge.files.yaml_file import Positions, position
from evomerge.objectives.scores import Split

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Section(BaseModel):
    """A part of a declaration: nothing unknown in it, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class OpenedItems:
    """The items of an evaluator: content hashes by split, and roughly the tokens of the search split."""

    ids: Mapping[Split, Sequence[str]]
    tokens: int


class Declaration(Section, ABC):
    """One evaluator as declared in a YAML file.

    Attributes:
        schema: version of this form.
        kind: which kind of evaluator, and so what else the file may say.
        name: prefix of its metrics (`math` gives `math.acc`).
        deterministic: whether equal models get equal scores; if not, its metrics are left out of every
            promise of identity.
        by_block: whether its evaluator can stop between blocks, as racing needs it (`BlockEvaluator`).
        has_losses: whether its evaluator may have losses with gradients (`Differentiable`); its items decide.
        reads: the numbers of a merge it needs (`Subject.statistics`), which a worker measures only then.
    """

    deterministic: ClassVar[bool] = True
    by_block: ClassVar[bool] = False
    has_losses: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    schema_: Annotated[Literal[1], Field(alias="schema")]
    kind: str
    name: str
    _file: str = PrivateAttr("")
    _positions: Positions = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("E136", "an evaluator's name has letters, digits, `_` and `-` only")
        return value

    def fault(self, field: str, code: str, wrong: str, found: str = "", todo: str = "") -> Problem:
        """A problem at `field` (dotted) of this declaration's file."""
        line, column = position(self._positions, tuple(field.split(".")))
        return Problem(code, wrong, found, todo, self._file, line, column, field)

    @abstractmethod
    def directions(self) -> dict[str, bool | None]:
        """Full metric name to whether higher is better; None where either may be wanted."""

    def learnable(self) -> frozenset[str]:
        """Full names of the metrics that losses may stand for; its items decide (`Differentiable`)."""
        return frozenset(self.directions()) if self.has_losses else frozenset()

    @abstractmethod
    def problems(self, *, allow_code: bool = False) -> list[Problem]:
        """Every fault that shows without loading a model."""

    def inputs(self) -> list[tuple[str, Path]]:
        """Every file and folder it reads besides its own, absolute, each with the field that names it."""
        return []

    def local_ids(self) -> Mapping[Split, Sequence[str]]:
        """Content hash of each item by split, where items lie in local files; in no special order."""
        return {}

    def open_items(self, *, allow_code: bool = False) -> OpenedItems:
        """All items, wherever on this machine they lie; opens data sets, which may take seconds.

        For declarations without `problems`.

        Raises:
            ConfigError: with every fault of the items.
        """
        return OpenedItems(self.local_ids(), self.size()[1])

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) over the settings and all bytes they name; where files lie does not matter."""

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Number of search items, and roughly of their tokens (0 where it cannot be told)."""
