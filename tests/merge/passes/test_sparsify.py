"""The bounds themselves: what lies exactly on one survives."""

from __future__ import annotations

import torch

from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.sparsify import keep_varying, sparsify
from evomerge.merge.passes.sparsity import Sparsity


def test_elements_of_the_threshold_and_of_the_ceiling_survive() -> None:
    delta = torch.tensor([0.25, -0.5, 0.5, 0.75, -1.0, 1.0, 2.0])
    found = sparsify(
        delta.clone(), Sparsity(threshold=0.5, ceiling=1.0), 0, 1, Scratch(), torch.empty(7)
    )
    assert found.tolist() == [0.0, -0.5, 0.5, 0.75, -1.0, 1.0, 0.0]


def test_entries_of_the_least_variance_survive() -> None:
    one, other = torch.tensor([1.0, 2.0, 4.0, 1.0]), torch.tensor([-1.0, 0.0, 0.0, 0.5])
    # The variances are 1, 1, 4 and 1/16.
    keep_varying([one, other], 1.0, *(torch.empty(4) for _ in range(3)))
    assert one.tolist() == [1.0, 2.0, 4.0, 0.0]
    assert other.tolist() == [-1.0, 0.0, 0.0, 0.0]
