"""Forecasts: what a search with a model expects of the batch that it is about to pay for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOW, HIGH = 0.1, 0.9
"""Quantiles over joint draws of the model between which the gain is expected."""


@dataclass(frozen=True)
class Forecast:
    """Of one batch.

    Attributes:
        by: what chose it: `map` (the next preferences of a learned map), `chart` (a model on the map's
            chart) or `genes` (a model on the genes themselves).
        gain: hypervolume that it is expected to add, as a share of what is known, in the scale of what was
            told; with a focus both near it. None without a model, and before 2026-12 of the whole front.
        low, high: of the same, the quantiles `LOW` and `HIGH`. Where another choice was weighed and not taken
            yet, `high` is the higher of both, and None if that one has no model; before 2026-12 its own.
    """

    by: str
    gain: float | None = None
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(by: str, shares: np.ndarray | None) -> Forecast:
        """From shares by draw, float64 [draws]; None without a model."""
        if shares is None:
            return Forecast(by)
        low, high = np.quantile(shares, (LOW, HIGH)).tolist()
        return Forecast(by, *(round(value, 9) for value in (float(shares.mean()), low, high)))
