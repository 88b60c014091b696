"""Merges that a function makes of a whole tensor: a built-in one, or a person's own (`recipe.registered`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch

from evomerge.errors import CandidateError
from evomerge.merge.passes.blocks import Dense, Operand, Scratch, Sink, block_ranges
from evomerge.merge.passes.call import Call
from evomerge.merge.passes.whole import FUNCTIONS, LINEAR, weighted
from evomerge.merge.threads import torch_threads


@torch.no_grad()
def merge_by_function(
    function: Callable[..., torch.Tensor],
    call: Call,
    base: torch.Tensor,
    operands: Sequence[Operand],
    tensor: str,
    shape: tuple[int, ...],
    scale: float,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
) -> bool:
    """`out = scale * function(base, experts, **coefficients)`, rounded once to `storage`.

    The function is given float32 copies on the CPU, whatever the device of `out`, and runs on one thread:
    sums and decompositions have other last bits on other devices and for other numbers of threads, and what
    was scored must be what is exported. It takes memory for all its tensors in float32.

    Args:
        function: of `call.method`, one of `merge.passes.beside_base` or registered.
        call: with the numbers for this tensor.
        base: [n] on the CPU.
        operands: the experts, on the CPU.
        tensor: its name, for messages.
        shape: of the tensor, as the function sees it.
        scale: factor of the whole result.
        out: [n] contiguous.
        storage: dtype the result is rounded to before it is held in `out`.
        scratch: on the device of `out`.

    Returns:
        Whether every element is finite.

    Raises:
        CandidateError: `merge_method`, if the function raises or gives no float32 tensor of that shape.
    """
    size = out.numel()
    copies = [torch.empty(size) for _ in range(1 + len(operands))]
    for operand, copy in zip((Dense(base), *operands), copies, strict=True):
        operand.value(copy, 0, size)
    origin, *experts = (copy.view(shape) for copy in copies)
    with torch_threads(1):
        try:
            found = function(origin, experts, **call.arguments())
        except Exception as error:
            # A person's function fails in any way it likes.
            wrong = f"`{call.method}` raised {type(error).__name__}: {error}"
            raise CandidateError("merge_method", wrong, tensor) from error
    if not isinstance(found, torch.Tensor) or found.dtype != torch.float32 or found.shape != shape:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, torch.Tensor) else repr(found)
        wrong = f"`{call.method}` must give a float32 tensor {list(shape)}, it gave {got}"
        raise CandidateError("merge_method", wrong, tensor)
    return _keep(found.detach().reshape(-1), scale, out, storage, scratch)


@torch.no_grad()
def merge_task_vectors(
    call: Call,
    base: torch.Tensor,
    operands: Sequence[Operand],
    tensor: str,
    shape: tuple[int, ...],
    scale: float,
    out: torch.Tensor,
    storage: torch.dtype,
    scratch: Scratch,
    key: Hashable = None,
) -> bool:
    """`out = scale * (base + lambda * function(deltas, **coefficients))`, rounded once to `storage`.

    As `merge_by_function`, for the functions of `merge.passes.whole`, which take float32 [T, *shape]. What is
    linear in the weights is the sum of its `task_parts`.

    Raises:
        CandidateError: `merge_method`, if a decomposition does not converge.
        ConfigError: as `Calibrated.of`, where statistics on inputs are gathered now.
    """
    numbers = call.arguments()
    with torch_threads(1):
        if call.method in LINEAR:
            weight = numbers["weight"]
            assert isinstance(weight, list)
            parts = task_parts(call, base, operands, tensor, shape, scratch, key)
            found = None if parts is None else weighted(parts, weight)
        else:
            numbers.pop("lambda", None)
            found, stack = None, _task_vectors(base, operands, shape)
            if stack is not None:
                with _named(call, tensor):
                    given = {} if call.given is None else {"given": call.given()}
                    found = FUNCTIONS[call.method](stack, **numbers, **given)
        if found is None:
            return False
        origin = torch.empty(out.numel())
        Dense(base).value(origin, 0, out.numel())
        origin.add_(found.reshape(-1).mul_(call.strength))
    return _keep(origin, scale, out, storage, scratch)


@torch.no_grad()
def task_parts(
    call: Call,
    base: torch.Tensor,
    operands: Sequence[Operand],
    tensor: str,
    shape: tuple[int, ...],
    scratch: Scratch,
    key: Hashable = None,
) -> torch.Tensor | None:
    """What each expert adds to a tensor per unit of its weight, by a method that is linear in the weights.

    Made on the CPU on one thread, and kept in the scratch under `key` for as long as the method's other
    numbers are the same, where there is room: weights change from candidate to candidate, parts do not.

    Args:
        call: of a method in `merge.passes.whole.LINEAR`.
        base: [n] on the CPU.
        operands: the experts, on the CPU.
        tensor: its name, for messages.
        shape: of the tensor, as the function sees it.
        scratch: keeps the parts.
        key: of base and experts; None keeps nothing.

    Returns:
        Float32 [T, *shape] on the CPU, without lambda; None where a task vector is not finite.

    Raises:
        CandidateError: `merge_method`, if a decomposition does not converge.
    """
    fixed = {n: value for n, value in call.arguments().items() if n not in ("weight", "lambda")}
    numbers = tuple(fixed.items())
    kept = scratch.prepared(key, numbers)
    if kept is None:
        with torch_threads(1), _named(call, tensor):
            stack = _task_vectors(base, operands, shape)
            if stack is None:
                return None
            kept = LINEAR[call.method](stack, **fixed)
        scratch.prepare(key, numbers, kept)
    return kept


def _task_vectors(
    base: torch.Tensor, operands: Sequence[Operand], shape: tuple[int, ...]
) -> torch.Tensor | None:
    """Float32 [T, *shape]; None where one is not finite.

    The delta of an adapter is exactly the product of its factors, so that it has their rank.
    """
    size = base.numel()
    origin, deltas = torch.empty(size), torch.empty(len(operands), size)
    Dense(base).value(origin, 0, size)
    for operand, row in zip(operands, deltas, strict=True):
        operand.delta(row, origin, 0, size)
    return deltas.view(len(operands), *shape) if bool(deltas.isfinite().all()) else None


@contextmanager
def _named(call: Call, tensor: str) -> Iterator[None]:
    """A failure of torch's is this candidate's, at this tensor."""
    try:
        yield
    except RuntimeError as error:
        raise CandidateError("merge_method", f"`{call.method}`: {error}", tensor) from error


def _keep(
    flat: torch.Tensor, scale: float, out: torch.Tensor, storage: torch.dtype, scratch: Scratch
) -> bool:
    """Scale, round once and hold a float32 result [n]; whether every element is finite."""
    ranges = list(block_ranges(flat.numel(), []))
    sink = Sink(out, storage, scratch, len(ranges))
    for start, stop in ranges:
        (block,) = scratch.rows(1, stop - start)
        block.copy_(flat[start:stop])
        if scale != 1.0:
            block.mul_(scale)
        sink.store(block, start, stop)
    return sink.is_finite()
