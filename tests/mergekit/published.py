"""mergekit files in the forms that people publish, each with what must become of it.

Written for this test from the documented format and the habits of model cards: `models` and `slices`, filters
and gradients, leftovers from other tools, slips of the pen. `tests/oracles` has the real mergekit carry out
every form that is not refused; `published.json` keeps a fingerprint of what it made.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from tests.evaluators.conftest import build_tokenizer

GOLDEN = Path(__file__).with_name("published.json")
LAYERS = 4
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Form:
    """One file.

    Attributes:
        name: what is special about it.
        text: the YAML; models are `base`, `math`, `code`, and adapters `lora` (of base), `lora-math`.
        warns: patterns, each of which a warning must match.
        refused: pattern of the error, code and line first; empty if the merge is carried out.
        loose: whether mergekit computes in half precision here, and we do not.
        random: whether masks are drawn.
    """

    name: str
    text: str
    warns: tuple[str, ...] = ()
    refused: str = ""
    loose: bool = False
    random: bool = False


def _forms() -> tuple[Form, ...]:
    """The forms of `published.txt`, split at their heads."""
    found = []
    for part in Path(__file__).with_name("published.txt").read_text().split("\n=== ")[1:]:
        head, _, body = part.partition("\n")
        settings: dict[str, object] = {"warns": ()}
        lines = body.splitlines()
        while lines and lines[0].startswith("# "):
            key, _, value = lines.pop(0)[2:].partition(": ")
            if key == "warns":
                settings["warns"] = (*settings["warns"], value)  # type: ignore[misc]
            elif key == "refused":
                settings["refused"] = value
            else:
                settings[key] = value == "yes"
        found.append(Form(head, "\n".join(lines) + "\n", **settings))  # type: ignore[arg-type]
    return tuple(found)


FORMS = _forms()


def write_models(root: Path) -> None:
    """Models whose weights are sines, so that no generator of random numbers is part of the numbers."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=LAYERS, **SIZES)
    hidden, inner, pairs = 16, 24, 8
    shapes = {"model.embed_tokens.weight": (len(tokenizer), hidden)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (pairs, hidden),
                "self_attn.v_proj": (pairs, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
            }.items()
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (len(tokenizer), hidden)}
    for number, name in enumerate(("base", "math", "code")):
        tensors = {}
        for place, (tensor, shape) in enumerate(shapes.items()):
            value = 0.3 * _wave(shape, 1.0 + place)
            if number:
                value = value + 0.05 * _wave(shape, 7.3 * number + 0.61 * place)
            tensors[tensor] = value
        folder = root / name
        folder.mkdir(parents=True)
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
        stated = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(stated))
        tokenizer.save_pretrained(folder)
    for name, base in (("lora", "base"), ("lora-math", "math")):
        _write_adapter(root / name, str(root / base), hidden, inner)


def _write_adapter(folder: Path, base: str, hidden: int, inner: int) -> None:
    rank = 2
    tensors = {}
    for layer in range(LAYERS):
        for module, (rows, columns) in {
            "self_attn.q_proj": (hidden, hidden), "mlp.up_proj": (inner, hidden),
        }.items():  # fmt: skip
            key = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{key}.lora_A.weight"] = 0.2 * _wave((rank, columns), 3.0 + layer)
            tensors[f"{key}.lora_B.weight"] = 0.2 * _wave((rows, rank), 5.0 + layer)
    folder.mkdir()
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "base_model_name_or_path": base}
    config |= {"target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _wave(shape: tuple[int, ...], step: float) -> torch.Tensor:
    size = math.prod(shape)
    return torch.sin(torch.arange(1, size + 1, dtype=torch.float64) * step).float().view(shape)


def fingerprint(folder: Path) -> list[float]:
    """Four numbers that stand for a checkpoint: sums of its elements, weighted by cosines."""
    sums = [0.0] * 4
    for name, tensor in sorted(load_file(str(folder / "model.safetensors")).items()):
        flat = tensor.double().reshape(-1)
        places = torch.arange(flat.numel(), dtype=torch.float64) + len(name)
        for index in range(4):
            sums[index] += float((flat * torch.cos(places * (0.37 + index))).sum())
    return sums
