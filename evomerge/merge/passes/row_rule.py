"""How the weights of a row follow from its inner products. Torch-free, so that plans can say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RowRule:
    """Weights found row by row.

    Attributes:
        kind: `slerp` (two experts, Shoemake 1985) or `model_stock` (Jang et al. 2024, equation 8).
        along: `rows` are the last axis; `columns` run along the first.
        t: position on the arc, 0 to 1; `slerp` only.
        factor: of the merged task vector; `model_stock` only.
    """

    kind: Literal["slerp", "model_stock"]
    along: Literal["rows", "columns"]
    t: float = 0.0
    factor: float = 1.0
