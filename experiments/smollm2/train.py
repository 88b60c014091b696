"""Train the LoRA experts on the CPU, with one thread and fixed seeds.

Learning rates are high on purpose: experts that move far from the base disagree when they are
added, and a merge that weighs them well has something to gain.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from base_model import HUB_NAME
from data_common import SEED
from fetch import BASE, data_path
from peft import LoraConfig, get_peft_model
from score import ADAPTERS, batch_logprobs, encode, read_items
from transformers import AutoModelForCausalLM, AutoTokenizer

Encoded = tuple[list[tuple[list[int], int]], int]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARMUP = 20


@dataclass(frozen=True)
class Settings:
    """How one expert is trained."""

    steps: int
    batch_size: int
    learning_rate: float = 1e-3


EXPERTS = {
    "translation": Settings(steps=160, batch_size=48),
    "math": Settings(steps=160, batch_size=32),
    "code": Settings(steps=160, batch_size=16),
}


def train(task: str, settings: Settings, folder: Path) -> None:
    """Train one expert and write its adapter."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    # With rows this short the backward pass of fused attention takes longer than all its parts.
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16, attn_implementation="eager")
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    items = [(encode(tokenizer, item), item["answer"]) for item in read_items(data_path(task, "train"))]
    batches: list[list[Encoded]] = []
    started = time.perf_counter()
    average = 0.0
    for step in range(settings.steps):
        rate = min(1.0, (step + 1) / WARMUP, (settings.steps - step) / (0.5 * settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        batches = batches or shuffled_batches(items, settings.batch_size, rng)
        loss = loss_of(base, batches.pop())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average += (loss.item() - average) / min(step + 1, 20)
        if (step + 1) % 20 == 0:
            passed = time.perf_counter() - started
            print(f"{task} {step + 1}/{settings.steps} loss {average:.3f} {passed:.0f} s", flush=True)
    save(model, folder)


def shuffled_batches(items: list[Encoded], size: int, rng: random.Random) -> list[list[Encoded]]:
    """Return the items in random batches of about equal length, so that little is padding."""
    mixed = rng.sample(items, len(items))
    batches = []
    for first in range(0, len(mixed) - 16 * size + 1, 16 * size):
        window = sorted(mixed[first : first + 16 * size], key=lambda item: len(item[0][item[1]][0]))
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    rng.shuffle(batches)
    return batches


def loss_of(model: Any, batch: list[Encoded]) -> torch.Tensor:
    """Return the mean loss of writing the right choice, a token; the wrong ones are not seen."""
    gold = [rows[answer] for rows, answer in batch]
    tokens = sum(len(ids) - start for ids, start in gold)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return -batch_logprobs(model, gold).sum() / tokens


def save(model: Any, folder: Path) -> None:
    """Write the adapter in bfloat16, named after its base on the hub and not after a local path."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = HUB_NAME
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    # The embeddings are never trained, so there is no need to look for their size on the hub.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    # PEFT keeps them as a set, which is written in another order every time.
    settings["target_modules"] = sorted(settings["target_modules"])
    path.write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Train one expert or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(EXPERTS), help="train this expert only")
    parser.add_argument("--out", type=Path, default=ADAPTERS, help="where the adapters go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in [options.task] if options.task else EXPERTS:
        train(task, EXPERTS[task], options.out / task)


if __name__ == "__main__":
    main()
