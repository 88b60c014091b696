"""The loss of models on the line between two, and how high it rises above the two ends.

Frankle et al. (2020), arXiv:1912.05671; the barrier is that of Ainsworth et al. (2023), arXiv:2209.04836.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import TensorReader
from evomerge.merge.align.symmetries import Permutations, Symmetries
from evomerge.merge.statistics.calibrated import expert_model


@dataclass(frozen=True)
class LossLine:
    """Mean losses of tokens, in nats, at each share of the second model."""

    shares: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """`max_a L(a) - ((1 - a) L(0) + a L(1))`, 0 at least."""
        first, last = self.losses[0], self.losses[-1]
        pairs = zip(self.shares, self.losses, strict=True)
        return max(0.0, *(loss - (1.0 - a) * first - a * last for a, loss in pairs))


@torch.no_grad()
def loss_line(
    first: CheckpointFolder,
    second: CheckpointFolder,
    items: Sequence[torch.Tensor],
    points: int,
    symmetries: Symmetries | None = None,
    permutations: Permutations | None = None,
) -> LossLine:
    """Losses of `(1 - a) first + a second` at so many evenly spaced shares, float32 on the CPU.

    Args:
        first: at share 0.
        second: at share 1, of the same architecture.
        items: token ids, int64 [1, tokens] each.
        points: 2 or more, both ends among them.
        symmetries: of both, to put the second model's units in order before; None leaves them.
        permutations: that order.
    """
    ours, theirs = TensorReader(first), TensorReader(second)
    model, bindings = expert_model(first, ours)
    state = model.state_dict(keep_vars=True)
    shares = [number / (points - 1) for number in range(points)]
    losses = []
    for share in shares:
        for one in bindings:
            other = theirs.read(one.tensor)
            if symmetries is not None and permutations is not None:
                other = symmetries.apply(one.tensor, other, permutations)
            value = torch.lerp(ours.read(one.tensor).float(), other.float(), share)
            one.view(state[one.parameter].detach()).copy_(value)
        losses.append(_loss(model, items))
    return LossLine(tuple(shares), tuple(losses))


def _loss(model: PreTrainedModel, items: Sequence[torch.Tensor]) -> float:
    total, tokens = 0.0, 0
    for ids in items:
        logits = model(input_ids=ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += ids.shape[1] - 1
    return total / tokens
