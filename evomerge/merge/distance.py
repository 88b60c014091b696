"""Distance: how far merged weights are from those of the base."""

from __future__ import annotations

import math

import torch

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import TensorReader
from evomerge.errors import CheckpointError, Problem
from evomerge.merge.passes.blocks import Scratch, block_ranges


def tensor_distance(merged: torch.Tensor, base: torch.Tensor, scratch: Scratch) -> tuple[float, float]:
    """Sums of |merged - base| and of its square, of one tensor; 0 and 0 where it is no float.

    Float32 inside a block of the passes, float64 over blocks.
    """
    if not merged.is_floating_point() or merged.shape != base.shape:
        return 0.0, 0.0
    left, right = merged.reshape(-1), base.reshape(-1)
    ranges = list(block_ranges(left.numel(), [], block=scratch.block))
    sums = torch.zeros(len(ranges), 2, dtype=torch.float64, device=left.device)
    for own, (start, stop) in zip(sums, ranges, strict=True):
        difference, origin = scratch.rows(2, stop - start)
        difference.copy_(left[start:stop])
        difference.sub_(origin.copy_(right[start:stop]))
        own[0] = difference.abs_().sum(dtype=torch.float64)
        own[1] = torch.dot(difference, difference)
    absolute = squares = 0.0
    for one, other in sums.tolist():
        absolute, squares = absolute + one, squares + other
    return absolute, squares


def checkpoint_distance(
    merged: CheckpointFolder, base: CheckpointFolder, dtype: torch.dtype | str = "float32"
) -> tuple[float, float]:
    """L1 and L2 distance between two checkpoints, as `LiveModel.materialize` measures it.

    Args:
        merged: its tensors are rounded to `dtype`, in which a live model would hold them.
        base: with the same tensors.
        dtype: the evaluation dtype.

    Raises:
        CheckpointError: E221, if `merged` has a tensor that the base has not, or of another shape.
    """
    kind: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    ours, theirs = TensorReader(merged), TensorReader(base)
    scratch = Scratch(torch.device("cpu"))
    sums = []
    for name, header in merged.tensors.items():
        other = base.tensors.get(name)
        if other is None or other.shape != header.shape:
            wrong = "no distance: the base has no tensor of this name and shape"
            raise CheckpointError(Problem("E221", wrong, "", "", str(merged.path), field=name))
        sums.append(tensor_distance(ours.read(name).to(kind), theirs.read(name), scratch))
    return math.fsum(each[0] for each in sums), math.sqrt(math.fsum(each[1] for each in sums))
