"""Coefficients to one number per input of a pass.

Spherical means and Model Stock stay in the span of their inputs, so they are computed on the T x T
matrix of inner products (float64) and applied as one weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evomerge.errors import CandidateError

LERP_ABOVE = 0.9995
"""Above this cosine SLERP is linear interpolation; the sine rule is ill-conditioned in float32."""
NEARLY_ONE = 1.0 - 1e-12
"""The same where the arithmetic is float64 throughout."""
LEAST_DIVISOR = 1e-8
"""A sum of weights below this does not divide."""
_STEPS = 50
_STILL = 3e-8
"""The tangent step below which a Karcher mean has converged: inner products resolve no less."""


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum.

    Raises:
        CandidateError: `degenerate_coefficients` if they sum to zero.
    """
    total = math.fsum(weights)
    if total == 0.0:
        raise CandidateError("degenerate_coefficients", "the weights of the merge sum to zero")
    return [weight / total for weight in weights]


def slerp(
    t: float, aa: float, ab: float, bb: float, lerp_above: float = LERP_ABOVE
) -> tuple[float, float]:
    """Factors of two raw vectors a and b on the arc between them (Shoemake 1985).

    `sin((1-t)w)/sin(w)` and `sin(tw)/sin(w)` with `w` the angle between a and b; linear interpolation
    where they are almost parallel or antiparallel, or one is zero.

    Args:
        t: position; 0 is a, 1 is b.
        aa: squared norm of a, in float64.
        ab: inner product of a and b.
        bb: squared norm of b.
        lerp_above: the |cosine| above which to interpolate linearly.
    """
    norms = math.sqrt(aa) * math.sqrt(bb)
    cosine = ab / norms if norms > 0.0 else 1.0
    if abs(cosine) > lerp_above:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def cosines(gram: np.ndarray) -> np.ndarray:
    """Cosines from inner products, [T, T]; those with a zero vector are 0, the diagonal is 1."""
    norms = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = gram / np.outer(norms, norms)
    found = np.clip(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def karcher(weights: Sequence[float], gram: np.ndarray) -> list[float]:
    """Factors of raw vectors for their weighted Karcher mean on the sphere, times their mean norm.

    Finds the unit vector u with `sum_t w_t log_u(x_t / |x_t|) = 0` by fixed-point steps along the mean
    tangent (Karcher 1977), in coordinates of the unit vectors. Zero vectors have no direction, but
    their weight counts in the mean norm `sum_t w_t |x_t|`.

    Args:
        weights: T weights, divided by their sum here.
        gram: float64 [T, T], inner products of the raw vectors.

    Raises:
        CandidateError: `degenerate_coefficients` where weights sum to zero or directions cancel.
    """
    shares = np.array(normalised(weights))
    norms = np.sqrt(np.diag(gram))
    live = np.flatnonzero((norms > 0.0) & (shares != 0.0))
    factors = np.zeros(len(shares))
    if not live.size:
        return factors.tolist()
    cosine = cosines(gram)[np.ix_(live, live)]
    pull = shares[live] / shares[live].sum()
    mean = _unit(pull, cosine)
    for _ in range(_STEPS):
        dots = np.clip(cosine @ mean, -1.0, 1.0)
        angles = np.arccos(dots)
        if angles.max() > math.pi - 1e-6:
            raise CandidateError("degenerate_coefficients", "an expert is opposite to the mean")
        # angle / sin(angle), which is 1 at 0.
        force = pull / np.sinc(angles / math.pi)
        step = force - mean * (force @ dots)
        length = math.sqrt(max(step @ cosine @ step, 0.0))
        if length < _STILL:
            break
        mean = _unit(math.cos(length) * mean + math.sin(length) / length * step, cosine)
    factors[live] = (shares @ norms) * mean / norms[live]
    return factors.tolist()


def multislerp(weights: Sequence[float], gram: np.ndarray, normalise: bool = True) -> list[float]:
    """Factors of raw vectors for barycentric interpolation on the sphere (Goddard 2025).

    The weighted mean of the unit vectors, made a unit vector again, times the weighted mean norm. The
    method's further step in the tangent plane at that point averages *projections* of the unit vectors,
    and their weighted mean is zero there by construction, so that there is nothing to step along.

    Args:
        weights: T weights.
        gram: float64 [T, T], inner products of the raw vectors.
        normalise: whether the weights are divided by their sum; otherwise they scale the norm.

    Raises:
        CandidateError: `degenerate_coefficients` where weights sum to zero or, of three or more
            vectors, directions cancel; two of them are then interpolated linearly.
    """
    shares = np.array(normalised(weights) if normalise else weights)
    norms = np.sqrt(np.diag(gram))
    live = np.flatnonzero((norms > 0.0) & (shares != 0.0))
    factors = np.zeros(len(shares))
    if not live.size:
        return factors.tolist()
    cosine = cosines(gram)[np.ix_(live, live)]
    try:
        mean = _unit(shares[live], cosine)
    except CandidateError:
        if len(shares) == 2:
            return [float(share) for share in shares]
        raise
    factors[live] = (shares @ norms) * mean / norms[live]
    return factors.tolist()


def _unit(vector: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """A vector in coordinates of unit vectors, made of length one."""
    length = math.sqrt(max(vector @ cosine @ vector, 0.0))
    if length < 1e-8:
        raise CandidateError("degenerate_coefficients", "the directions of the experts cancel out")
    return vector / length


def model_stock(gram: np.ndarray) -> float:
    """The ratio t of `base + t * mean of task vectors` (Jang et al. 2024, equation 8).

    `t = T c / (1 + (T-1) c)` with c the mean cosine over pairs of task vectors; 0 where the denominator
    vanishes, 1 for a single expert.

    Args:
        gram: float64 [T, T], inner products of the task vectors.
    """
    count = len(gram)
    if count == 1:
        return 1.0
    pairs = cosines(gram)[np.triu_indices(count, 1)]
    mean = float(pairs.mean())
    divisor = 1.0 + (count - 1) * mean
    return count * mean / divisor if divisor > LEAST_DIVISOR else 0.0
