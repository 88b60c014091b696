"""LoRA adapters of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM


def write_adapter(base: Path, folder: Path, seed: int, scale: float = 0.2, **fields: Any) -> None:
    """Both of its factors have random numbers added; `fields` are of PEFT's `LoraConfig`."""
    tuned = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), peft.LoraConfig(**fields)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    tuned.save_pretrained(folder, save_embedding_layers=False)
