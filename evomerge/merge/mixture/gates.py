"""Rows of a router without training: from prompts that an expert is for, or at random.

The names are mergekit-moe's. `hidden`: what the MLP of a layer sees (behind its norm, as the router does;
mergekit takes the layer's input) at the last token of a prompt, the mean over an expert's positive prompts
less that over its negative ones, at unit length. `cheap_embed`: the same of the mean embedding of a
prompt's tokens, one row for all layers. `random`: normal numbers. `arrow` is made of weights (`experts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from evomerge.errors import ConfigError, Problem
from evomerge.merge.threads import torch_threads
from evomerge.recipe.mixture import Gate, Prompts

NORM = "post_attention_layernorm"
"""The module whose output an MLP sees."""

Rows = torch.Tensor
"""float32 [layers, hidden]."""


def random_gates(seed: int, experts: int, layers: int, hidden: int, spread: float) -> torch.Tensor:
    """Normal numbers of this standard deviation, float32 [layers, experts, hidden]."""
    rng = torch.Generator().manual_seed(seed)
    return spread * torch.randn(layers, experts, hidden, generator=rng)


@torch.no_grad()
def prompted_rows(
    gate: Gate, prompts: Prompts, expert: str, model: PreTrainedModel, folder: Path
) -> Rows:
    """An expert's rows from prompts, by the base model and its tokenizer.

    Raises:
        ConfigError: E109, they cancel.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    look = _embedded if gate == "cheap_embed" else _hidden

    def mean(texts: Sequence[str]) -> Rows:
        seen = [look(model, torch.tensor([tokenizer(text)["input_ids"]])) for text in texts]
        return torch.stack(seen).mean(0)

    with torch_threads(1):
        found = mean(prompts.positive)
        if prompts.negative:
            found = found - mean(prompts.negative)
    lengths = found.norm(dim=1, keepdim=True)
    if not bool((lengths > 0.0).all()):
        wrong, todo = "these prompts give no direction", "give other positive or negative prompts"
        raise ConfigError(Problem("E109", wrong, expert, todo, field="experts"))
    unit: Rows = found / lengths
    return unit


def _hidden(model: PreTrainedModel, ids: torch.Tensor) -> Rows:
    norms = [module for name, module in model.named_modules() if name.endswith(f".{NORM}")]
    seen: list[torch.Tensor] = []
    handles = [
        norm.register_forward_hook(lambda *given: seen.append(given[2][0, -1])) for norm in norms
    ]
    try:
        model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen).float()


def _embedded(model: PreTrainedModel, ids: torch.Tensor) -> Rows:
    embedding: Any = model.get_input_embeddings()
    mean: torch.Tensor = embedding(ids)[0].float().mean(0)
    return mean.expand(model.config.num_hidden_layers, -1).clone()
