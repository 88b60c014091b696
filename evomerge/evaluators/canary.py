"""The canary: a few tokens through a model before it is scored, so that a broken merge fails early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CandidateError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT = "The capital of France is"
TOKENS = 64
"""Longest probe: enough to see every layer at work, short enough to cost nothing."""


@torch.inference_mode()
def check_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Sequence[int]]
) -> None:
    """Run a fixed prompt and the first tokens of `probes` (token ids) and look at every logit.

    Raises:
        CandidateError: `nonfinite_logits`, if any logit is NaN or infinite.
    """
    rows = [list(row)[:TOKENS] for row in (tokenizer.encode(PROMPT), *probes) if len(row)]
    if model.config.is_encoder_decoder or not rows:
        return
    width = max(map(len, rows))
    # Right padding needs no mask: a causal model never looks ahead.
    padded = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows], device=model.device)
    if not bool(model(input_ids=padded, use_cache=False).logits.isfinite().all()):
        raise CandidateError("nonfinite_logits", "the model's logits are not finite numbers")
