"""Rows of the fault matrix: one function each, which is the test and the soak at once."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.local_workers import forked_workers

MODULES = (
    "test_driver_stopped",
    "test_takeover",
    "test_ledger_hurt",
    "test_workers_lost",
    "test_cluster",
    "test_candidates",
    "test_exports_cut",
    "test_inputs",
    "test_malicious",
    "test_any_order",
)
"""The modules of this folder that hold rows."""


@dataclass(frozen=True)
class Tally:
    """What a trial saw: injected faults, and what became of the campaigns they hit.

    `lost`: acknowledged ledger events that are not there at the end. `doubled`: results counted twice.
    `fronts`: campaigns whose end was compared with the undisturbed one's, `differing` those that differ.
    """

    injections: int = 0
    lost: int = 0
    doubled: int = 0
    fronts: int = 0
    differing: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.injections + other.injections,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.fronts + other.fronts,
            self.differing + other.differing,
        )

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, counted twice or changed."""
        return not (self.lost or self.doubled or self.differing)


@dataclass(frozen=True)
class Trial:
    """One trial of a row: its number, an empty folder, and chance that depends on row and number."""

    row: str
    index: int
    folder: Path

    @property
    def rng(self) -> random.Random:
        """Chance, the same at every call."""
        return random.Random(f"{self.row} {self.index}")


Inject = Callable[[Trial], Tally]


@dataclass(frozen=True)
class Row:
    """A row: `inject` hurts and judges once; `quick`, `t1` and `t2` are least numbers of injections."""

    id: str
    title: str
    inject: Inject
    quick: int
    t1: int
    t2: int

    def count(self, tier: str) -> int:
        """How many injections a tier asks for: `quick`, `T1` or `T2`."""
        return {"quick": self.quick, "T1": self.t1, "T2": self.t2}[tier]


ROWS: dict[str, Row] = {}


def row(
    name: str, title: str, *, quick: int, t1: int, t2: int
) -> Callable[[Inject], Callable[[Path], None]]:
    """Make a test of an injection, and put the row on the list that the soak runs."""

    def take(inject: Inject) -> Callable[[Path], None]:
        assert name not in ROWS, name
        ROWS[name] = Row(name, title, inject, quick, t1, t2)

        @functools.wraps(inject, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        def test(tmp_path: Path) -> None:
            with forked_workers():  # the soak's are started
                total = inject_many(ROWS[name], quick, tmp_path)
            assert total.sound, total

        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for its arguments
        # Far more than any needs alone: no fault of a row that the machine is busy with other things.
        marked: Callable[[Path], None] = pytest.mark.timeout(900)(test)
        return marked

    return take


def inject_many(row: Row, count: int, folder: Path, start: int = 0) -> Tally:
    """Run trials of a row, counted from `start`, until at least `count` faults were injected."""
    total, index = Tally(), start
    while total.injections < count:
        place = folder / f"{row.id}-{index}"
        place.mkdir(parents=True)
        found = row.inject(Trial(row.id, index, place))
        assert found.injections > 0, f"{row.id}: trial {index} injected nothing"
        total += found
        index += 1
    return total
