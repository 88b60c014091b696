"""From the gradient by place, as one backward pass gives it, to the gradient by gene."""

from __future__ import annotations

import numpy as np

from evomerge.search_space.space import SearchSpace


def gene_gradient(space: SearchSpace, gradient: np.ndarray) -> np.ndarray:
    """The gradient by gene of what has this gradient by weight, float64 [genes].

    The chain rule through `Spread.values`, whose values are linear in the genes. Genes of other coefficients
    get zero.

    Args:
        space: whose genes they are.
        gradient: float64 [experts, places], by each expert's weight at each place, in the order of the
            space's experts and of its layout's places.

    Raises:
        ValueError: if the shape is another.
    """
    places = space.layout.places
    wanted = (len(space.experts), len(places))
    if gradient.shape != wanted:
        raise ValueError(f"a gradient by place is {list(wanted)} here, found {list(gradient.shape)}")
    at = {place: index for index, place in enumerate(places)}
    by_input = dict(zip(space.experts, gradient, strict=True)) | {"*": gradient.sum(axis=0)}
    found = np.zeros(len(space.genes))
    for index, gene in enumerate(space.genes):
        if gene.coefficient == "weight":
            own = by_input[gene.input][[at[place] for place in gene.places]]
            found[index] = own @ np.array(gene.basis) if gene.basis else own.sum()
    return found
