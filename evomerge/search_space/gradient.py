"""From the gradient by place, as one backward pass gives it, to the gradient by gene."""

from __future__ import annotations

import numpy as np

from evomerge.search_space.space import SearchSpace


def gene_gradient(space: SearchSpace, gradient: np.ndarray) -> np.ndarray:
    """The gradient by gene of what has this gradient by weight, float64 [genes].

    The chain rule through what genes spread, which is linear in them. Genes of other coefficients get zero.

    Args:
        space: whose genes they are.
        gradient: float64 [experts, leaves], by each expert's weight at each leaf, in the order of the
            space's experts and of its layout's leaves.

    Raises:
        ValueError: if the shape is another.
    """
    places = space.layout.leaves
    wanted = (len(space.experts), len(places))
    if gradient.shape != wanted:
        raise ValueError(f"a gradient by place is {list(wanted)} here, found {list(gradient.shape)}")
    genes, experts, columns, parts = space.weight_parts
    shares = gradient[experts, columns] * parts
    return np.bincount(genes, shares, minlength=len(space.genes)).astype(np.float64)
