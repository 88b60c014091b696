"""The tensors of a mixture, one by one, in the order of the base's file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from evomerge.checkpoint.writer import TensorSpec
from evomerge.merge.mixture.architectures import IDLE, MLP, MixtureArchitecture
from evomerge.merge.mixture.experts import Expert


@dataclass(frozen=True)
class MixtureTensor:
    """A tensor that will be written, and how it is made; read when its turn comes."""

    spec: TensorSpec
    make: Callable[[], torch.Tensor]


def mixture_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], torch.Tensor],
    experts: Sequence[Expert],
    architecture: MixtureArchitecture,
    gates: torch.Tensor,
    dtype: str,
    layers: Collection[int],
) -> list[MixtureTensor]:
    """Every tensor of the mixture.

    Args:
        shapes: of the dense model's tensors by name.
        read: gives one of them; what is no MLP of `layers` is taken from there.
        experts: whose MLPs are the experts.
        architecture: of the mixture.
        gates: float32 [layers of the model, experts, hidden].
        dtype: all are stored in.
        layers: numbers of those whose MLPs become experts.
    """
    kind: torch.dtype = getattr(torch, dtype)
    found: list[MixtureTensor] = []

    def add(name: str, shape: tuple[int, ...], make: Callable[[], torch.Tensor]) -> None:
        spec = TensorSpec(name, dtype, shape)
        found.append(MixtureTensor(spec, lambda: make().to(kind).contiguous()))

    def dense(name: str) -> Callable[[], torch.Tensor]:
        return lambda: read(name)

    def matrix(expert: Expert, name: str) -> Callable[[], torch.Tensor]:
        return lambda: expert.matrix(name)

    def zeros(*shape: int) -> Callable[[], torch.Tensor]:
        return lambda: torch.zeros(shape)

    def row(layer: int) -> Callable[[], torch.Tensor]:
        return lambda: gates[layer]

    routed: set[str] = set()
    hidden = gates.shape[2]
    for name, shape in shapes.items():
        matched = MLP.fullmatch(name)
        if matched is None or int(matched[2]) not in layers:
            add(name, shape, dense(name))
            continue
        layer, number, kind_of = matched.groups()
        if layer not in routed:
            routed.add(layer)
            add(architecture.gate(layer), tuple(gates.shape[1:]), row(int(number)))
            if architecture.shared:
                shared = f"{layer}.{architecture.block}.shared_expert"
                add(f"{shared}_gate.weight", (1, hidden), zeros(1, hidden))
                for each in ("gate_proj", "up_proj"):
                    add(f"{shared}.{each}.weight", (IDLE, hidden), zeros(IDLE, hidden))
                add(f"{shared}.down_proj.weight", (hidden, IDLE), zeros(hidden, IDLE))
        for place, expert in enumerate(experts):
            add(architecture.matrix(layer, place, kind_of), shape, matrix(expert, name))
    return found
