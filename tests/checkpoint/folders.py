"""Tiny model folders for tests of the merge engine: a two-layer Llama, its fine-tunes, LoRA adapters."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.checkpoint.folder import CheckpointFolder, open_folder

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def llama(seed: int = 0, **fields: Any) -> LlamaForCausalLM:
    """A random Llama in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **fields}))


def save(model: torch.nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write a model as one safetensors file and a config."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = model.config.tie_word_embeddings
    tensors = {
        name: tensor.to(dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))


def write_family(
    root: Path,
    experts: tuple[str, ...] = ("a", "b", "c"),
    dtype: torch.dtype = torch.bfloat16,
    **fields: Any,
) -> dict[str, CheckpointFolder]:
    """A base and fine-tunes of it, opened, by name."""
    model = llama(**fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save(model, root / "base", dtype)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for expert in experts:
        model.load_state_dict(start)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        save(model, root / expert, dtype)
    return {name: open_folder(root / name, name) for name in ("base", *experts)}


def raw_file(path: Path, header: Any, data: bytes) -> Path:
    """A safetensors file with any header at all (an object for JSON, or bytes)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path
