"""What an expert brings into a mixture: its MLP matrices, whole or cut to what it learned most.

A dense model's are stored as they are; an adapter's are the base's with its factors added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evomerge.checkpoint.reader import Reader, TensorReader
from evomerge.merge.threads import torch_threads


@dataclass(frozen=True)
class Expert:
    """An expert beside the base.

    Attributes:
        rank: of what it learned of a matrix, so many of the largest singular triplets are kept, as SMILE does
            (Tang et al. 2024, arXiv:2408.10174); None for all.
    """

    base: TensorReader
    reader: Reader
    rank: int | None = None

    def matrix(self, name: str) -> torch.Tensor:
        """A matrix of its MLPs, in the stored dtype where it is taken as it is, else float32."""
        if self.rank is None and self.reader.delta(name) is None:
            return self.reader.read(name)
        learned = self.learned(name)
        if self.rank is not None:
            with torch_threads(1):
                u, s, v = torch.linalg.svd(learned.double(), full_matrices=False)
                k = self.rank
                learned = ((u[:, :k] * s[:k]) @ v[:k]).float()
        return self.base.read(name).float() + learned

    def learned(self, name: str) -> torch.Tensor:
        """Its task vector of a matrix, float32."""
        factors = self.reader.delta(name)
        if factors is not None:
            product: torch.Tensor = factors[0].float() @ factors[1].float()
            return product
        return self.reader.read(name).float() - self.base.read(name).float()


def arrow_rows(experts: Sequence[Expert], layers: Sequence[Sequence[str]]) -> torch.Tensor:
    """Arrow's prototypes (Ostapenko et al. 2024, arXiv:2405.11157), float32 [layers, experts, hidden].

    The direction of a layer's input that an expert's task vector stretches most: the first right singular
    vector of what it learned of the matrices that read it. Its sign means nothing; the largest entry is
    positive. Zero where it learned nothing.

    Args:
        experts: of the mixture.
        layers: of each layer the matrices that read what the router sees.
    """
    with torch_threads(1):
        return torch.stack(
            [torch.stack([_direction(expert, names) for expert in experts]) for names in layers]
        )


def _direction(expert: Expert, names: Sequence[str]) -> torch.Tensor:
    stacked = torch.cat([expert.learned(name) for name in names]).double()
    values, vectors = torch.linalg.eigh(stacked.T @ stacked)
    if float(values[-1]) <= 0.0:
        return torch.zeros(stacked.shape[1])
    found: torch.Tensor = vectors[:, -1]
    return (found * found[found.abs().argmax()].sign()).float()
