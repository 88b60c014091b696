"""The tensors of a mixture, one by one, in the order of the base's file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import TensorReader
from evomerge.checkpoint.writer import TensorSpec
from evomerge.merge.mixture.architectures import IDLE, MLP, MixtureArchitecture
from evomerge.merge.mixture.experts import Expert


@dataclass(frozen=True)
class MixtureTensor:
    """A tensor that will be written, and how it is made; read when its turn comes."""

    spec: TensorSpec
    make: Callable[[], torch.Tensor]


def mixture_tensors(
    base: CheckpointFolder,
    experts: Sequence[Expert],
    architecture: MixtureArchitecture,
    gates: torch.Tensor,
    dtype: str,
    whole: Collection[int] = (),
) -> list[MixtureTensor]:
    """Every tensor of the mixture.

    Args:
        base: whose tensors outside the MLPs all experts share.
        experts: whose MLPs are the experts.
        architecture: of the mixture.
        gates: float32 [layers, experts, hidden].
        dtype: all are stored in.
        whole: numbers of layers that keep the base's MLP.
    """
    kind: torch.dtype = getattr(torch, dtype)
    own = TensorReader(base)
    found: list[MixtureTensor] = []

    def add(name: str, shape: tuple[int, ...], make: Callable[[], torch.Tensor]) -> None:
        spec = TensorSpec(name, dtype, shape)
        found.append(MixtureTensor(spec, lambda: make().to(kind).contiguous()))

    def read(name: str) -> Callable[[], torch.Tensor]:
        return lambda: own.read(name)

    def matrix(expert: Expert, name: str) -> Callable[[], torch.Tensor]:
        return lambda: expert.matrix(name)

    def zeros(*shape: int) -> Callable[[], torch.Tensor]:
        return lambda: torch.zeros(shape)

    def row(layer: int) -> Callable[[], torch.Tensor]:
        return lambda: gates[layer]

    routed: set[str] = set()
    hidden = gates.shape[2]
    for name, header in base.tensors.items():
        matched = MLP.fullmatch(name)
        if matched is None or int(matched[2]) in whole:
            add(name, header.shape, read(name))
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
            add(architecture.matrix(layer, place, kind_of), header.shape, matrix(expert, name))
    return found
