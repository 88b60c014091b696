"""A logit ensemble: several live models that answer as one, to compare merges with.

It costs as many forward passes and as much memory as it has models, and is no checkpoint: it cannot be
exported, nor be a candidate of a search, whose baseline it may be (Hansen and Salamon 1990; Li et al. 2023,
arXiv:2309.15698, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel


class _Heads(torch.nn.Module):
    """The output layers of all models; each reads its part of the hidden states."""

    def __init__(self, heads: Sequence[Any], widths: Sequence[int]) -> None:
        super().__init__()
        self._heads, self._widths = torch.nn.ModuleList(heads), list(widths)

    @property
    def weight(self) -> torch.Tensor:
        """That of the first, whose shape says how much a row of logits takes."""
        first: Any = self._heads[0]
        found: torch.Tensor = first.weight
        return found

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Mean of the logits, in their dtype; summed in float32 at least."""
        parts = torch.split(hidden, self._widths, dim=-1)
        found = [head(part) for head, part in zip(self._heads, parts, strict=True)]
        wide = torch.promote_types(found[0].dtype, torch.float32)
        total = torch.stack([logits.to(wide) for logits in found]).mean(0)
        return total.to(found[0].dtype)


def logit_ensemble(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """The first model, changed in place so that its logits are the mean of those of all.

    Its hidden states are those of all models side by side, so that whatever picks positions in front of the
    output layer does so for each of them. Models keep nothing between calls: no text can be written. Of
    classifiers the logits themselves are averaged.

    Args:
        models: two or more decoders of the same vocabulary, or classifiers of the same classes, of one
            architecture and on one device.
    """
    first: Any = models[0]
    if first.get_output_embeddings() is None:
        return _of_classifiers(models)
    bodies: list[Any] = [model.base_model for model in models]
    runs = [body.forward for body in bodies]
    heads: list[Any] = [model.get_output_embeddings() for model in models]  # type: ignore[no-untyped-call]

    def forward(*given: Any, **named: Any) -> Any:
        named["use_cache"] = False
        found = runs[0](*given, **named)
        others = [run(*given, **named).last_hidden_state for run in runs[1:]]
        found.last_hidden_state = torch.cat([found.last_hidden_state, *others], dim=-1)
        return found

    bodies[0].forward = forward
    first.set_output_embeddings(_Heads(heads, [head.weight.shape[1] for head in heads]))
    found: PreTrainedModel = first
    return found


def _of_classifiers(models: Sequence[PreTrainedModel]) -> PreTrainedModel:
    first: Any = models[0]
    runs: list[Any] = [model.forward for model in models]

    def forward(*given: Any, **named: Any) -> Any:
        found = runs[0](*given, **named)
        others = [run(*given, **named).logits for run in runs[1:]]
        found.logits = torch.stack([found.logits, *others]).mean(0)
        return found

    first.forward = forward
    found: PreTrainedModel = first
    return found
