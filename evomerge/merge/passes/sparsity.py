"""Which elements of a task vector survive, as data. Torch-free, so that plans can hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sparsity:
    """Which elements of one task vector survive, and how survivors are scaled.

    Attributes:
        threshold: least magnitude that survives (float32); 0 keeps all.
        ceiling: largest magnitude that survives; infinity keeps all.
        keep: probability of surviving; 1 keeps all.
        spread: within a row of the last axis, probabilities run from `keep - spread` for the smallest
            magnitude to `keep + spread` for the largest, evenly by rank.
        unbiased: whether each survivor is divided by its own probability; only with `spread`.
        rescale: factor of the survivors.
        key: key of the random mask (`keys.mask_key`).
    """

    threshold: float = 0.0
    ceiling: float = math.inf
    keep: float = 1.0
    spread: float = 0.0
    unbiased: bool = False
    rescale: float = 1.0
    key: int = 0

    @property
    def keeps_all(self) -> bool:
        """Whether the task vector is left as it is."""
        drops = self.threshold > 0.0 or self.ceiling < math.inf or self.keep < 1.0
        return not drops and self.rescale == 1.0
