"""MM-MO looks at fewer points: most of what it must do does not depend on how many, and its time does."""

from __future__ import annotations

import pytest

from evomerge.optimizers import mmmo
from evomerge.optimizers.sequential import Effort


def fewer() -> None:
    """In this process, for good."""
    mmmo.RAW, mmmo.EFFORT = 32, Effort(16, 8, restarts=2, rounds=1, neighbours=2)


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test."""
    monkeypatch.setattr(mmmo, "RAW", mmmo.RAW)
    monkeypatch.setattr(mmmo, "EFFORT", mmmo.EFFORT)
    fewer()
