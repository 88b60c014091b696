"""Weights by output row, too many for a recipe's JSON: a side file that the recipe names by its digest.

One line of JSON, then for each input and place the steps of its rows on a grid, int16 little-endian: a
weight is `low + step * steps`. Kept beside `recipe.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.places import any_expert

MOST_STEPS = 2**15 - 1
_PLAIN, _OF_MIXTURES = 1, 2
"""Schemas of the file."""
_STORED = np.dtype("<i2")


@dataclass(frozen=True, eq=False)
class RowTable:
    """Weights of single rows.

    Attributes:
        low, step: of the grid.
        steps: input to place to int16 [rows], for the places whose rows differ; elsewhere, the coefficient
            table of the recipe holds. A place is as in that table.
        of_mixtures: whether the matrices of a mixture's experts, which share a place, have these weights.
            Not in tables from before 2026-12: their merges had the means there, and must have them again.
    """

    low: float
    step: float
    steps: Mapping[str, Mapping[str, np.ndarray]]
    of_mixtures: bool = False

    @cached_property
    def content(self) -> bytes:
        """The file, the same for equal tables."""
        ordered = {name: dict(sorted(self.steps[name].items())) for name in sorted(self.steps)}
        head = {
            "schema": _OF_MIXTURES if self.of_mixtures else _PLAIN,
            "low": self.low,
            "step": self.step,
            "rows": {
                name: {p: len(own) for p, own in table.items()} for name, table in ordered.items()
            },
        }
        text = json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False)
        parts = [own.astype(_STORED).tobytes() for table in ordered.values() for own in table.values()]
        return b"".join([text.encode(), b"\n", *parts])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowTable) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def weights(self, name: str, place: str) -> tuple[float, ...]:
        """The weight of each row of the nearest place above; empty where no row has its own."""
        table = self._weights.get(name, {})
        prefix = place
        while prefix and prefix not in table:
            if self.of_mixtures and (shared := any_expert(prefix)) in table:
                return table[shared]
            prefix = prefix.rpartition(".")[0]
        return table.get(prefix, ())

    @cached_property
    def _weights(self) -> dict[str, dict[str, tuple[float, ...]]]:
        # Rounded as a gene's values are: 0.0 and not -0.0, 0.3 and not 0.30000000000000004.
        used = {
            step for table in self.steps.values() for own in table.values() for step in own.tolist()
        }
        value = {step: round(self.low + step * self.step, 12) + 0.0 for step in used}
        return {
            name: {place: tuple(map(value.__getitem__, own.tolist())) for place, own in table.items()}
            for name, table in self.steps.items()
        }


def rows_file(digest: str) -> str:
    """What the file of a table is called."""
    return f"rows-{digest[:16]}.bin"


def parse_rows(content: bytes, digest: str, where: str, field: str = "") -> RowTable:
    """The table in a file's content.

    Raises:
        ConfigError: E150, it is not the one with this digest.
    """
    if hashlib.sha256(content).hexdigest() != digest:
        todo = "restore it from the export it came with"
        wrong = "the row weights are not those that the recipe names"
        raise ConfigError(
            Problem("E150", wrong, f"the recipe names {digest[:16]}", todo, where, field=field)
        )
    head, _, body = content.partition(b"\n")
    try:
        data = json.loads(head)
        if data["schema"] not in (_PLAIN, _OF_MIXTURES):
            raise ValueError(f"schema {data['schema']}")
        low, step = float(data["low"]), float(data["step"])
        if not (math.isfinite(low) and math.isfinite(step)):
            raise ValueError("a grid that is not finite")
        return RowTable(low, step, _steps(data["rows"], body), data["schema"] == _OF_MIXTURES)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = "the row weights are in a form that this evomerge does not read"
        raise ConfigError(Problem("E150", wrong, str(error), "", where, field=field)) from None


def _steps(counts: Mapping[str, Mapping[str, Any]], body: bytes) -> dict[str, dict[str, np.ndarray]]:
    numbers = np.frombuffer(body, _STORED)
    if len(numbers) != sum(int(count) for table in counts.values() for count in table.values()):
        raise ValueError("it has another length than it says")
    found: dict[str, dict[str, np.ndarray]] = {}
    start = 0
    for name, table in counts.items():
        for place, count in table.items():
            found.setdefault(name, {})[place] = numbers[start : start + count].astype(np.int16)
            start += count
    return found


def read_rows(folder: Path, digest: str, field: str = "") -> RowTable:
    """The table with a digest, from its file in a folder.

    Raises:
        ConfigError: E150, it is not there or not the one.
    """
    path = folder / rows_file(digest)
    try:
        content = path.read_bytes()
    except OSError as error:
        wrong = "the row weights that the recipe names are not beside it"
        found = error.strerror or str(error)
        todo = f"put {path.name} of the export there"
        raise ConfigError(Problem("E150", wrong, found, todo, str(path), field=field)) from None
    return parse_rows(content, digest, str(path), field)
