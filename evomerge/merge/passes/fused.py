"""From an entry of a plan to a compiled pass: its kind, its numbers, and proof that it stays finite.

Compiled passes do not look for NaN or overflow. They are used where the largest magnitudes of the inputs
bound the result and every number on the way to it; all else goes by the plain path, which looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.passes.blocks import Dense, Operand, Scratch
from evomerge.merge.passes.compiled import mask_words
from evomerge.merge.passes.kernels import KernelSpec
from evomerge.merge.passes.scalars import LEAST_DIVISOR
from evomerge.merge.passes.sparsify import float32_below
from evomerge.merge.plan import TensorPlan

_MARGIN = 0.99
"""Bounds are sums of a few products in float64; rounding moves neither them nor the result by 1 %."""

_MOST_SUBSETS = 8

_INSIDE = 1e38
"""What float32 numbers on the way to a result may reach."""


def is_bounded(entry: TensorPlan, readers: Mapping[str, Reader], scratch: Scratch) -> bool:
    """Whether the result and all numbers on the way to it are finite, judged by the inputs' largest."""
    storage: torch.dtype = getattr(torch, entry.dtype)
    origin = 0.0
    if entry.base is not None:
        origin = scratch.largest(readers[entry.base[0]], entry.base[1])
    total = widest = 0.0
    for one in entry.inputs:
        reader = readers[one.source]
        if reader.delta(one.tensor) is not None:
            return False
        survivors = one.rescale
        if one.spread > 0.0:
            survivors /= one.keep - one.spread
        reach = (scratch.largest(reader, one.tensor) + origin) * max(1.0, abs(survivors))
        widest = max(widest, reach)
        total += reach * max(1.0, abs(one.weight))
    if entry.divisor == "weight":
        total /= _least_divisor(tuple(one.weight for one in entry.inputs))
    inside = total * max(1.0, abs(entry.factor)) + origin
    if entry.least_variance > 0.0:
        inside += len(entry.inputs) * (2.0 * widest) ** 2
    result = (total * abs(entry.factor) + origin) * abs(entry.scale)
    # A NaN among the inputs makes both comparisons false.
    return inside < _INSIDE and result < _MARGIN * torch.finfo(storage).max


@lru_cache(maxsize=1024)
def _least_divisor(weights: tuple[float, ...]) -> float:
    """A lower bound of what sums of the weights of those that agree are replaced by or amount to."""
    if len(weights) > _MOST_SUBSETS:
        return LEAST_DIVISOR
    sums = [0.0]
    for weight in weights:
        sums += [value + weight for value in sums]
    # Near zero, float32 may put the sum on either side of the least divisor.
    return min(LEAST_DIVISOR if 0.0 < abs(value) < 1e-4 else abs(value) or 1.0 for value in sums)


def run_compiled(
    entry: TensorPlan,
    base: torch.Tensor | None,
    operands: Sequence[Operand],
    out: torch.Tensor,
    scratch: Scratch,
) -> bool:
    """Carry out an entry whose result `is_bounded` by a compiled pass, if there is one for it.

    Args:
        entry: the plan of one tensor.
        base: [n] or None.
        operands: the experts.
        out: [n] contiguous; undefined where the answer is no.
        scratch: whose `kernels` are asked.
    """
    kernels = scratch.kernels
    if kernels is None or not kernels.works:
        return False
    flats = [operand.flat for operand in operands if isinstance(operand, Dense)]
    if len(flats) < len(operands):
        return False
    inputs = entry.inputs
    trims = caps = masks = rescales = False
    numbers: list[float] = []
    for one in inputs:
        # Limits by rank were tried: reading them one by one made the compiled pass slower than the plain one.
        if one.spread > 0.0 or 0.0 < one.keep < 2.0**-31:
            return False
        trims = trims or one.threshold > 0.0
        caps = caps or one.ceiling < math.inf
        masks = masks or one.keep < 1.0
        rescales = rescales or one.rescale != 1.0
        # Magnitudes must exceed the bound: the float32 below the threshold, or less than nothing.
        bound = float32_below(one.threshold) if one.threshold > 0.0 else -1.0
        numbers += (one.weight, bound, one.ceiling, one.rescale)
    spec = _spec(
        inputs=tuple([flat.dtype for flat in flats]),
        base=None if base is None else base.dtype,
        storage=entry.dtype,
        out=out.dtype,
        # An election whose experts are all whole goes with the trimmed ones: one kind less to compile.
        trims=trims or (entry.elect and not masks),
        caps=caps,
        masks=masks,
        rescales=masks or rescales,
        election=entry.election,
        divisor=entry.divisor,
        varying=entry.least_variance > 0.0,
        scales=entry.scale != 1.0 or entry.factor != 1.0,
    )
    words = [word for one in inputs for word in mask_words(one.key, one.keep)] if masks else []
    variance = float32_below(entry.least_variance) if entry.least_variance > 0.0 else -1.0
    numbers += (entry.scale, entry.factor, variance, LEAST_DIVISOR, _instead(entry), 0.0)
    return kernels.run(spec, flats if base is None else [base, *flats], numbers, words, out)


def _instead(entry: TensorPlan) -> float:
    """What takes the place of a sum of weights that vanishes."""
    least = min((one.weight for one in entry.inputs if one.weight != 0.0), default=1.0)
    return least if least >= LEAST_DIVISOR else 1.0


@lru_cache(maxsize=1024)
def _spec(
    inputs: tuple[torch.dtype, ...], base: torch.dtype | None, out: torch.dtype, **flags: Any
) -> KernelSpec:
    """The kind of pass; a model has hundreds of tensors of one kind."""
    names = tuple(_name(dtype) for dtype in inputs)
    return KernelSpec(names, "" if base is None else _name(base), out=_name(out), **flags)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
