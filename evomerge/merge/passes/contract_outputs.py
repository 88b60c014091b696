"""Inner products with adapters, from what enters and leaves a linear layer, without a gradient of its matrix.

With `y = x W^T` a loss has the gradient `dL/dW = sum over tokens of g x^T`, where `g = dL/dy`. Its inner
product with what an adapter adds, `L R`, is `sum over rows of (g^T (x R^T)) * L`: products as narrow as the
adapters' ranks in place of one as wide as the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from evomerge.checkpoint.reader import Reader
from evomerge.merge.plan import TensorPlan


def is_of_adapters(entry: TensorPlan, readers: Mapping[str, Reader]) -> bool:
    """Whether all that an entry adds to its base are low-rank deltas of which nothing is dropped."""
    return (
        entry.call is None
        and entry.base is not None
        and not entry.is_sparse
        and all(readers[one.source].delta(one.tensor) is not None for one in entry.inputs)
    )


def contract_outputs(
    entry: TensorPlan,
    readers: Mapping[str, Reader],
    inputs: torch.Tensor,
    gradient: torch.Tensor,
    rows: int = 1,
) -> np.ndarray:
    """The derivative of a loss by each input's weight, as `contract` gives it of the matrix's gradient.

    Products over tokens are in the model's dtype, as that gradient would be, sums over columns float64.

    Args:
        entry: of adapters alone (`is_of_adapters`), planned with `directions`.
        readers: by source name.
        inputs: [..., columns], what the linear layer was given.
        gradient: [..., rows of the matrix], of the loss by what it made of them.
        rows: 1, or the rows of the matrix, for a derivative by the weight of each.

    Returns:
        float64 [inputs, rows].
    """
    given = inputs.reshape(-1, inputs.shape[-1])
    slopes = gradient.reshape(-1, gradient.shape[-1])
    factors = [readers[one.source].delta(one.tensor) for one in entry.inputs]
    left = [each[0].to(slopes.device) for each in factors if each is not None]
    right = torch.cat([each[1] for each in factors if each is not None]).to(given)
    products = (slopes.T @ (given @ right.T)).float()
    parts = torch.split(products, [each.shape[1] for each in left], dim=1)
    sums = [(part * each).sum(1, dtype=torch.float64) for part, each in zip(parts, left, strict=True)]
    by_row = torch.stack(sums)
    if rows == 1:
        by_row = by_row.sum(1, keepdim=True)
    weights = np.array([one.weight for one in entry.inputs])
    found: np.ndarray = by_row.cpu().numpy() * weights[:, None] * (entry.factor * entry.scale)
    return found
