"""How akin genomes are: the kinship of two merges, as far as their coefficients say.

Hu et al. (2024), "Exploring Model Kinship for Merging Large Language Models", arXiv:2410.12613. It is that of
what two merges add to the base where task vectors are perpendicular and of one length.
"""

from __future__ import annotations

import numpy as np


def kinship(first: np.ndarray, second: np.ndarray, similarity: str) -> np.ndarray:
    """Similarity of every pair of vectors, float64 [n, m]; larger is more akin.

    `cosine`, `pearson` (the cosine of what deviates from a vector's mean), or `euclid`, the distance with
    the other sign. Vectors of zero are akin to none.
    """
    if similarity == "euclid":
        found: np.ndarray = -np.linalg.norm(first[:, None] - second[None], axis=2)
        return found
    if similarity == "pearson":
        first = first - first.mean(axis=1, keepdims=True)
        second = second - second.mean(axis=1, keepdims=True)
    lengths = np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    # Not by BLAS, whose last bits depend on its threads: who is least akin must not.
    products: np.ndarray = np.einsum("ig,jg->ij", first, second)
    return np.where(lengths > 0.0, products / np.where(lengths > 0.0, lengths, 1.0), 0.0)
