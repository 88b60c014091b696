"""Rows of a router without training: from prompts that an expert is for, or at random.

The names are mergekit-moe's. `hidden`: what the MLP of a layer sees (behind its norm, as the router does;
mergekit takes the layer's input) at the last token of a prompt, the mean over an expert's positive prompts
less that over its negative ones, at unit length. `cheap_embed`: the same of the mean embedding of a
prompt's tokens, one row for all layers. `random`: normal numbers. `arrow` is made of weights (`experts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from evomerge.errors import ConfigError, Problem
from evomerge.merge.mixture.declaration import MixtureDeclaration, MixtureExpert
from evomerge.merge.threads import torch_threads

NORM = "post_attention_layernorm"
"""The module whose output an MLP sees."""

Rows = torch.Tensor
"""float32 [layers, hidden]."""


def random_gates(
    declaration: MixtureDeclaration, layers: int, hidden: int, spread: float
) -> torch.Tensor:
    """Normal numbers of this standard deviation, float32 [layers, experts, hidden]."""
    rng = torch.Generator().manual_seed(declaration.seed)
    return spread * torch.randn(layers, len(declaration.experts), hidden, generator=rng)


@torch.no_grad()
def prompted_gates(
    declaration: MixtureDeclaration, model: PreTrainedModel, folder: Path
) -> torch.Tensor:
    """Rows from prompts, by the base model and its tokenizer: float32 [layers, experts, hidden].

    Raises:
        ConfigError: E109, an expert's rows cancel.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    look = _embedded if declaration.gate_mode == "cheap_embed" else _hidden
    with torch_threads(1):
        rows = [_rows(expert, model, tokenizer, look) for expert in declaration.experts]
    return torch.stack(rows, 1)


Look = Callable[[PreTrainedModel, torch.Tensor], Rows]


def _rows(expert: MixtureExpert, model: PreTrainedModel, tokenizer: Any, look: Look) -> Rows:
    def mean(prompts: Sequence[str]) -> Rows:
        seen = [look(model, torch.tensor([tokenizer(text)["input_ids"]])) for text in prompts]
        return torch.stack(seen).mean(0)

    found = mean(expert.positive_prompts)
    if expert.negative_prompts:
        found = found - mean(expert.negative_prompts)
    lengths = found.norm(dim=1, keepdim=True)
    if not bool((lengths > 0.0).all()):
        wrong, todo = "these prompts give no direction", "give other positive or negative prompts"
        raise ConfigError(Problem("E109", wrong, expert.source_model, todo, field="experts"))
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
