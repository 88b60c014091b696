"""Merge methods that decompose matrices: TSV-M, Iso-C, Iso-CTS, KnOTS, STAR and the closed form of WUDI.

Each takes the task vectors of one tensor, float32 [T, ...], and gives the merged one, float32 [...], or
the part of each task, whose sum by the weights it is. The last two axes of a tensor are its matrix, axes
before them (the experts of a mixture) count matrices; what has one axis is averaged or goes by the inner
method, as each says. Decompositions are float64: the directions of small singular values matter as much
as those of large ones here, and float32 does not find them. Directions whose singular value is below
float32's noise (`max(m, n) * 2^-23` of the largest) are left out, so that task vectors of low rank, such
as LoRA's, and those of experts that do not touch a tensor bring no arbitrary directions in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from evomerge.merge.statistics.order import rank

Weights = Sequence[float]


def tsv_m(deltas: torch.Tensor) -> torch.Tensor:
    """Task singular vectors without interference (Gargiulo et al. 2025, arXiv:2412.00081).

    Of each task vector the `min(m, n) / T` largest singular triplets are kept; left and right singular
    vectors of all tasks are replaced by the nearest orthonormal ones (their polar factor). The merge is
    the sum of these parts by the weights. Tensors without a matrix, and matrices of less rank than tasks,
    are averaged: `d_t / T`.

    Returns:
        The part of each task, float32 [T, ...].
    """

    def one(stack: torch.Tensor) -> torch.Tensor:
        count, rows, columns = stack.shape
        kept = min(rows, columns) // count
        if kept == 0:
            return stack / count
        found = [_triplets(delta, kept) for delta in stack]
        left = _orthonormal(torch.cat([each[0] for each in found], 1))
        right = _orthonormal(torch.cat([each[2] for each in found]))
        sizes = [len(each[1]) for each in found]
        lefts, rights = torch.split(left, sizes, 1), torch.split(right, sizes)
        parts = zip(lefts, found, rights, strict=True)
        return torch.stack([(own * each[1]) @ other for own, each, other in parts])

    return _parts(deltas, one, lambda stack: stack / len(stack))


def iso_c(deltas: torch.Tensor, weight: Weights) -> torch.Tensor:
    """Isotropic merging in the common subspace (Marczak et al. 2025, arXiv:2502.04959).

    All singular values of `sum w_t d_t` are replaced by their mean. Tensors without a matrix are averaged.
    """

    def one(stack: torch.Tensor) -> torch.Tensor:
        left, values, right = _triplets(_sum(stack, weight))
        return (left * values.mean()) @ right if len(values) else stack.new_zeros(stack.shape[1:])

    return _each_matrix(deltas, one, weight)


def iso_cts(deltas: torch.Tensor, weight: Weights, common: float) -> torch.Tensor:
    """Isotropic merging in common and task-specific subspaces (Marczak et al. 2025, arXiv:2502.04959).

    The first `common` of the rank are directions of `sum w_t d_t`; the rest is shared out evenly over the
    largest directions of each `w_t d_t` outside of them. All are made orthonormal and get the mean
    singular value.
    """

    def one(stack: torch.Tensor) -> torch.Tensor:
        count, rows, columns = stack.shape
        full = min(rows, columns)
        own = min(round((full - int(full * common)) / count), full // count)
        left, values, right = _triplets(_sum(stack, weight), full - own * count)
        lefts, all_values, rights = [left], [values], [right]
        for delta, factor in zip(stack, weight, strict=True):
            rest = factor * delta
            rest = rest - left @ (left.T @ rest)
            found = _triplets(rest, own)
            for place, each in zip((lefts, all_values, rights), found, strict=True):
                place.append(each)
        values = torch.cat(all_values)
        if not len(values):
            return stack.new_zeros(stack.shape[1:])
        return (_orthonormal(torch.cat(lefts, 1)) * values.mean()) @ _orthonormal(torch.cat(rights))

    return _each_matrix(deltas, one, weight)


def knots(deltas: torch.Tensor, density: float) -> torch.Tensor:
    """KnOTS (Stoica et al. 2024, arXiv:2410.19735) with TIES as its inner method.

    `[d_1 ... d_T] = U S [V_1 ... V_T]`: the task vectors in one basis. The right factors `V_t` are trimmed
    to their `density` largest entries, signs are elected, and what agrees, divided by the number that do, is
    mapped back by `U S`. Tensors without a matrix are merged by TIES as they are.

    Returns:
        The part of each task, float32 [T, ...].
    """

    def one(stack: torch.Tensor) -> torch.Tensor:
        count, _, columns = stack.shape
        left, values, right = _triplets(torch.cat(list(stack), 1))
        if not len(values):
            return torch.zeros_like(stack)
        rights = right.reshape(len(values), count, columns).transpose(0, 1)
        return (left * values) @ _ties(rights, density)

    return _parts(deltas, one, lambda stack: _ties(stack, density))


def star(deltas: torch.Tensor, eta: float) -> torch.Tensor:
    """Spectral truncation and rescaling (Lee et al. 2025, arXiv:2502.10339).

    Of each task vector the largest singular values are kept until they hold `eta` of their sum, and scaled
    up to that sum; the merge is their mean. Tensors without a matrix are averaged.

    Returns:
        The part of each task, float32 [T, ...].
    """

    def one(stack: torch.Tensor) -> torch.Tensor:
        truncated = []
        for delta in stack:
            left, values, right = _triplets(delta)
            if not len(values):
                truncated.append(delta)
                continue
            sums = values.cumsum(0)
            kept = min(int(torch.searchsorted(sums, eta * sums[-1])) + 1, len(values))
            factor = sums[-1] / sums[kept - 1]
            truncated.append((left[:, :kept] * (values[:kept] * factor)) @ right[:kept])
        return torch.stack(truncated) / len(stack)

    return _parts(deltas, one, lambda stack: stack / len(stack))


def wudi(deltas: torch.Tensor, weight: Weights) -> torch.Tensor:
    """The least interference with each task vector's own row space, in closed form.

    WUDI (Cheng et al. 2025, arXiv:2503.08099) minimises `sum_t w_t |(M - d_t) d_t^T|^2 /
    |d_t|^2` by Adam; its minimum is `M = (sum w_t d_t G_t) (sum w_t G_t)^+` with `G_t = d_t^T d_t /
    |d_t|^2`, RegMean (Jin et al. 2023, arXiv:2212.09849) without data. Tensors without a matrix are
    averaged by their shares.
    """
    total = sum(weight)

    def averaged(stack: torch.Tensor) -> torch.Tensor:
        return _sum(stack, weight) / total if total > 0.0 else torch.zeros_like(stack[0])

    def one(stack: torch.Tensor) -> torch.Tensor:
        rows, responses = [], []
        for delta, share in zip(stack, weight, strict=True):
            norm = delta.norm()
            if share > 0.0 and norm > 0.0:
                rows.append(delta * (share**0.5 / norm))
                responses.append(delta @ rows[-1].T)
        if not rows:
            return stack.new_zeros(stack.shape[1:])
        # With A the stacked rows, sum w G = A^T A and sum w d G = responses A: no matrix is squared.
        left, values, right = _triplets(torch.cat(rows))
        return (torch.cat(responses, 1) @ left / values) @ right

    return _each_matrix(deltas, one, weight, averaged)


def _each_matrix(
    deltas: torch.Tensor,
    one: Callable[[torch.Tensor], torch.Tensor],
    weight: Weights,
    other: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """`one` of each matrix, float64 [T, m, n]; tensors without a matrix by `other`, or averaged."""
    shape = deltas.shape[1:]
    if len(shape) < 2:
        found = _mean(deltas.double(), weight) if other is None else other(deltas.double())
        return found.float()
    stacks = deltas.reshape(len(deltas), -1, *shape[-2:])
    out = torch.empty(stacks.shape[1:])
    for number in range(len(out)):
        out[number] = one(stacks[:, number].double())
    return out.view(shape)


def _parts(
    deltas: torch.Tensor,
    one: Callable[[torch.Tensor], torch.Tensor],
    other: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """`one` of each matrix, float64 [T, m, n] to the same shape; tensors without a matrix by `other`."""
    shape = deltas.shape
    if len(shape) < 3:
        return other(deltas.double()).float()
    stacks = deltas.reshape(len(deltas), -1, *shape[-2:])
    out = torch.empty(stacks.shape)
    for number in range(out.shape[1]):
        out[:, number] = one(stacks[:, number].double())
    return out.view(shape)


def _triplets(
    matrix: torch.Tensor, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left vectors [m, k], singular values [k], right vectors [k, n] above the noise, the largest first."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    noise = max(matrix.shape) * 2.0**-23 * values[:1]
    kept = int((values > noise).sum())
    kept = kept if most is None else min(kept, most)
    return left[:, :kept], values[:kept], right[:kept]


def _orthonormal(frame: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal rows or columns; on the frame's span, where that is smaller."""
    if not frame.numel():
        return frame
    left, _, right = _triplets(frame)
    return left @ right


def _sum(stack: torch.Tensor, weight: Weights) -> torch.Tensor:
    total = stack[0] * weight[0]
    for delta, factor in zip(stack[1:], weight[1:], strict=True):
        total = total + delta * factor
    return total


def _mean(stack: torch.Tensor, weight: Weights) -> torch.Tensor:
    return _sum(stack, weight) / len(stack)


def _ties(stack: torch.Tensor, density: float) -> torch.Tensor:
    """TIES on a stack of tensors: what agrees with the sign elected, over the number that do."""
    trimmed = []
    for values in stack:
        size = values.numel()
        least = values.abs().flatten().kthvalue(size - rank(density, size) + 1).values
        trimmed.append(torch.where(values.abs() >= least, values, 0.0))
    kept = torch.stack(trimmed)
    elected = torch.where(kept.sum(0) >= 0.0, 1.0, -1.0)
    agree = torch.sign(kept) == elected
    found: torch.Tensor = kept * agree / agree.sum(0).clamp(min=1)
    return found
