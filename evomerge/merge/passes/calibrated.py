"""Merge methods that weigh experts by statistics on calibration inputs: RegMean and Fisher merging.

Each takes the task vectors of one tensor, float32 [T, ...], and for each expert its statistic or None, and
gives the merged task vector, float32 [...].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOOR = 1e-6
"""Added to every Fisher diagonal, as by the authors: what no item moves is averaged."""

_NOISE = 1e-10
"""Eigenvalues of a sum of Gram matrices below this share of the largest are those of no input."""


def regmean(
    deltas: torch.Tensor,
    weight: Sequence[float],
    alpha: float,
    given: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """The linear layer nearest to all experts' outputs (RegMean, Jin et al. 2023, arXiv:2212.09849).

    `(sum w_t d_t G_t) (sum w_t G_t)^-1`, entries of each Gram matrix G_t off the diagonal times `alpha`;
    float64. Directions that no input has stay as in the base. Tensors that are no weight of a linear layer
    are averaged by shares.
    """
    grams = [gram for gram in given if gram is not None]
    if len(grams) < len(deltas) or deltas.dim() != 3:
        return _by_shares(deltas, weight)
    shape = deltas.shape[1:]
    wanted = torch.zeros(shape, dtype=torch.float64)
    total = torch.zeros(shape[1], shape[1], dtype=torch.float64)
    for delta, gram, share in zip(deltas, grams, weight, strict=True):
        shrunk = gram.double() * alpha
        shrunk.diagonal().copy_(gram.double().diagonal())
        wanted += share * (delta.double() @ shrunk)
        total += share * shrunk
    # Where the diagonal counts for no more than the rest, nothing lifts directions without an input above
    # the noise of float32 Gram matrices, whose spectral norm grows with the root of their size.
    noise = _NOISE if alpha < 1.0 else shape[1] ** 0.5 * 2.0**-22
    inverse: torch.Tensor = torch.linalg.pinv(total, rtol=noise, hermitian=True)
    merged: torch.Tensor = wanted @ inverse
    return merged.float()


def fisher(
    deltas: torch.Tensor, weight: Sequence[float], given: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """The mean weighted by Fisher information, entry by entry (Matena and Raffel 2022, arXiv:2111.09832).

    `sum w_t F_t d_t / sum w_t F_t`, with `FLOOR` added to each F_t.
    """
    if any(each is None for each in given):
        return _by_shares(deltas, weight)
    merged = torch.zeros(deltas.shape[1:], dtype=torch.float64)
    total = torch.zeros(deltas.shape[1:], dtype=torch.float64)
    for delta, information, share in zip(deltas, given, weight, strict=True):
        assert information is not None
        factor = share * (information.double() + FLOOR)
        merged += factor * delta
        total += factor
    return (merged / total).float()


def _by_shares(deltas: torch.Tensor, weight: Sequence[float]) -> torch.Tensor:
    total = torch.zeros(deltas.shape[1:], dtype=torch.float64)
    for delta, share in zip(deltas, weight, strict=True):
        total += share * delta.double()
    return (total / sum(weight)).float()
