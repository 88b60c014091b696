"""A forward pass that computes what is asked for: logits of some places, and little else in the last layer.

Only the hidden states of the scored places enter the output layer. What the last layer makes of other places
is read by nobody but for their keys and values, so that its queries, its output projection and its MLP see
the scored places alone as well. Weights are read at each call, so that they may change in place between
passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAST_LAYER = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Modules of a layer, as most decoders name them, that make each place from itself alone."""

MOST_PLACES = 0.7
"""Share of scored places from which on gathering them for the last layer saves too little."""

ALIGNED = 16
"""Floats of a vector register or two: MKL writes rows of other widths a third slower."""


@contextmanager
def gathered_head(
    model: PreTrainedModel, cells: torch.Tensor, shape: tuple[int, int]
) -> Iterator[None]:
    """Let the output layer see only the hidden states of `cells`, as [1, cells, hidden].

    Args:
        model: a causal language model.
        cells: int64 [cells], flat places (row * width + column).
        shape: rows and width of the batch.

    Raises:
        RuntimeError: if the model has no output layer whose inputs can be gathered.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise RuntimeError("the model names no output layer")

    def gather(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (hidden,) = inputs
        if hidden.shape[:-1] != shape:
            raise RuntimeError(f"the output layer reads hidden states of shape {hidden.shape}")
        return (_rows(hidden, cells),)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def narrow_last_layer(
    model: PreTrainedModel, cells: torch.Tensor, shape: tuple[int, int]
) -> Iterator[None]:
    """Let the last layer work on `cells` alone where it can; other places leave it with some finite values.

    Does nothing for models whose last layer is not found, or names its parts otherwise, and where most
    places are asked for.
    """
    with ExitStack() as stack:
        layer = _last_layer(model)
        if layer is not None and len(cells) < MOST_PLACES * math.prod(shape):
            for name in LAST_LAYER:
                module = _descendant(layer, name)
                if module is not None:
                    stack.enter_context(
                        replaced_forward(module, _at_cells(module.forward, cells, shape))
                    )
        yield


@contextmanager
def aligned_rows(model: PreTrainedModel) -> Iterator[None]:
    """Let linear layers of uneven width (an MLP of 853, a vocabulary of 50,257) write rows that are aligned.

    For float32 on a CPU, and without gradients.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if (
                type(module) is nn.Linear
                and module.out_features % ALIGNED
                and module.weight.device.type == "cpu"
                and module.weight.dtype == torch.float32
                and "forward" not in vars(module)
            ):
                stack.enter_context(replaced_forward(module, _aligned(module)))
        yield


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Put another forward in place of a module's own; a device map may have set one of its own as well."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _at_cells(
    forward: Callable[..., Any], cells: torch.Tensor, shape: tuple[int, int]
) -> Callable[..., Any]:
    def narrowed(*inputs: Any, **others: Any) -> Any:
        if len(inputs) != 1 or inputs[0].shape[:-1] != shape:
            return forward(*inputs, **others)
        found = forward(_rows(inputs[0], cells), **others)
        made = found[0] if isinstance(found, tuple) else found
        whole = made.new_zeros(math.prod(shape), made.shape[-1])
        whole = whole.index_copy_(0, cells.to(made.device), made[0]).view(*shape, -1)
        return (whole, *found[1:]) if isinstance(found, tuple) else whole

    return narrowed


def _aligned(module: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    def aligned(inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        width = -(-module.out_features // ALIGNED) * ALIGNED
        found = flat.new_empty(len(flat), width)[:, : module.out_features]
        torch.mm(flat, module.weight.t(), out=found)
        if module.bias is not None:
            found += module.bias
        return found.view(*inputs.shape[:-1], module.out_features)

    return aligned


def _rows(hidden: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """[1, cells, hidden] of [rows, width, hidden]; a model may be spread over several devices."""
    return hidden.reshape(-1, hidden.shape[-1])[cells.to(hidden.device)][None]


def _last_layer(model: PreTrainedModel) -> nn.Module | None:
    """The last decoder layer, if it is plain which one that is and it runs once."""
    count = model.config.get_text_config().num_hidden_layers
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    # Experts of a mixture are lists within the list of layers.
    outer = [
        module
        for name, module in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    ]
    if len(outer) != 1:
        return None
    *others, last = outer[0]
    return None if any(each is last for each in others) else last


def _descendant(module: nn.Module, name: str) -> nn.Module | None:
    found: nn.Module | None = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None
