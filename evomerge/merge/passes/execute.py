"""Carry out one entry of a plan: fetch its tensors, choose the pass, fill the output.

The one door to the kernels: live materialisation and export both come through here. Compiled passes and
the plain ones give the same bits, so it does not matter which of them carried out an entry.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.passes.beside_base import BESIDE_BASE
from evomerge.merge.passes.blocks import Operand, Scratch, operand_of
from evomerge.merge.passes.by_function import merge_by_function, merge_task_vectors, task_parts
from evomerge.merge.passes.by_row import merge_by_row
from evomerge.merge.passes.call import Call
from evomerge.merge.passes.fused import is_bounded, run_compiled
from evomerge.merge.passes.placement import Weights
from evomerge.merge.passes.sparsified_sum import sparsified_sum
from evomerge.merge.passes.weighted_sum import weighted_rows, weighted_sum
from evomerge.merge.plan import PlanInput, TensorPlan
from evomerge.recipe.registered import own_methods


def execute(
    entry: TensorPlan, readers: Mapping[str, Reader], out: torch.Tensor, scratch: Scratch
) -> bool:
    """Fill `out` with a planned tensor, rounded to the entry's dtype and held in `out`'s.

    Args:
        entry: the plan of one tensor.
        readers: by source name.
        out: contiguous, of the entry's shape (or flat), on the scratch's device.
        scratch: reused over entries.

    Returns:
        Whether every element is finite.

    Raises:
        CandidateError: `merge_method`, as `merge.passes.by_function` says.
    """
    target = out.view(-1)
    storage: torch.dtype = getattr(torch, entry.dtype)
    if not storage.is_floating_point:
        source = entry.inputs[0]
        target.copy_(readers[source.source].read(source.tensor).reshape(-1))
        return True
    if entry.call is not None:
        return _called(entry, entry.call, readers, target, storage, scratch)
    operands = [operand_of(readers[one.source], one.tensor, scratch.weights) for one in entry.inputs]
    weights = [one.weight for one in entry.inputs]
    base = None
    if entry.base is not None:
        base = scratch.weights.read(readers[entry.base[0]], entry.base[1])
    size = target.numel()
    if size == 0:
        return True
    if entry.rule is not None:
        return merge_by_row(
            base, operands, entry.rule, entry.shape, entry.scale, target, storage, scratch
        )
    if entry.by_row:
        # Here and in an export by the same blocks: there is no compiled form.
        factors = [row_factors(one, scratch.device) for one in entry.inputs]
        assert base is not None
        return weighted_rows(base, operands, factors, entry.scale, size, target, storage, scratch)
    ranks = [ranks_of(entry, one, scratch) for one in entry.inputs]
    bounded = scratch.kernels is not None and is_bounded(entry, readers, scratch)
    if bounded and run_compiled(entry, base, operands, target, scratch):
        return True
    if entry.is_sparse:
        assert base is not None
        return sparsified_sum(
            base, operands, weights, [one.sparsity for one in entry.inputs], entry.election,
            entry.divisor, entry.factor, entry.least_variance, entry.columns, entry.scale,
            size, target, storage, scratch, not bounded, ranks,
        )  # fmt: skip
    return weighted_sum(
        base, operands, weights, entry.scale, size, target, storage, scratch, not bounded
    )


def prefetch(entry: TensorPlan, readers: Mapping[str, Reader], scratch: Scratch) -> None:
    """Begin to bring an entry's tensors to the device, while another is carried out."""
    if entry.call is not None:
        return  # it is made on the CPU
    wanted = [(readers[one.source], one.tensor) for one in entry.inputs]
    if entry.base is not None:
        wanted.append((readers[entry.base[0]], entry.base[1]))
    scratch.weights.prefetch(wanted)


def _called(
    entry: TensorPlan,
    call: Call,
    readers: Mapping[str, Reader],
    target: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
) -> bool:
    """A tensor that a built-in or a registered function makes."""
    if target.numel() == 0:
        return True
    base, operands, key = _whole(entry, call, readers)
    function = BESIDE_BASE.get(call.method)
    if function is None and not call.function:
        return merge_task_vectors(
            call, base, operands, entry.name, entry.shape, entry.scale, target, storage, scratch, key
        )
    if function is None:
        function = own_methods()[call.method].registered.function
    return merge_by_function(
        function, call, base, operands, entry.name, entry.shape, entry.scale, target, storage, scratch
    )


def parts_of(entry: TensorPlan, readers: Mapping[str, Reader], scratch: Scratch) -> torch.Tensor | None:
    """`task_parts` of an entry with a call: those that its merge has kept, or will find."""
    assert entry.call is not None
    base, operands, key = _whole(entry, entry.call, readers)
    return task_parts(entry.call, base, operands, entry.name, entry.shape, scratch, key)


def _whole(
    entry: TensorPlan, call: Call, readers: Mapping[str, Reader]
) -> tuple[torch.Tensor, list[Operand], Hashable]:
    """Base and experts on the CPU, and the key of what is kept of them."""
    assert entry.base is not None
    base = Weights().read(readers[entry.base[0]], entry.base[1])
    operands = [operand_of(readers[one.source], one.tensor) for one in entry.inputs]
    sources = [(readers[one.source], one.tensor) for one in entry.inputs]
    return base, operands, (call.method, readers[entry.base[0]], entry.base[1], *sources)


def row_factors(one: PlanInput, device: torch.device) -> torch.Tensor:
    """The factor of each row, float32 [rows], or [1] of all."""
    return torch.tensor(one.rows or (one.weight,), dtype=torch.float32, device=device)


def ranks_of(entry: TensorPlan, one: PlanInput, scratch: Scratch) -> torch.Tensor | None:
    """Prepared ranks of an input that needs them, if there are any."""
    if one.spread == 0.0 or scratch.ranks is None or entry.base is None:
        return None
    if one.tensor != entry.base[1]:
        return None  # layers of different numbers: nobody has ranked their difference
    found = scratch.ranks(entry.base[0], one.source, one.tensor)
    return None if found is None else found.to(scratch.device)
