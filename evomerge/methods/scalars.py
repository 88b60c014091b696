"""Coefficients to one number per input of a pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evomerge.errors import CandidateError

LERP_ABOVE = 0.9995
"""Above this cosine the sine rule is ill-conditioned and SLERP is linear interpolation."""


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum.

    Raises:
        CandidateError: `degenerate_coefficients` if they sum to zero.
    """
    total = math.fsum(weights)
    if total == 0.0:
        raise CandidateError("degenerate_coefficients", "the weights of a linear merge sum to zero")
    return [weight / total for weight in weights]


def slerp(t: float, aa: float, ab: float, bb: float) -> tuple[float, float]:
    """Factors of two raw vectors a and b on the arc between them (Shoemake 1985).

    `sin((1-t)w)/sin(w)` and `sin(tw)/sin(w)` with `w` the angle between a and b; linear interpolation
    where they are almost parallel or antiparallel, or one is zero.

    Args:
        t: position; 0 is a, 1 is b.
        aa: squared norm of a, in float64.
        ab: inner product of a and b.
        bb: squared norm of b.
    """
    norms = math.sqrt(aa) * math.sqrt(bb)
    cosine = ab / norms if norms > 0.0 else 1.0
    if abs(cosine) > LERP_ABOVE:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
