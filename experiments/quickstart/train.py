"""Training of the base model and of the fine-tunes."""

import math
import time
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

_IGNORE = -100


@dataclass(frozen=True)
class Schedule:
    """How long and how hot one training run is.

    Attributes:
        steps: Optimizer steps.
        batch: Rows a step.
        rate: Peak learning rate; cosine decay to a tenth after a short warm-up.
        weight_decay: AdamW weight decay.
        prompt_weight: Loss weight of prompt tokens; answer tokens weigh 1.
        mixed: Multiply in bfloat16, which is slower than float32 on a CPU without instructions for it.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float = 0.01
    prompt_weight: float = 0.0
    mixed: bool = True


@dataclass(frozen=True)
class Rows:
    """Training rows: token ids, right-padded, and the length of prompt and row."""

    tokens: torch.Tensor
    prompts: torch.Tensor
    lengths: torch.Tensor


def encode_rows(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> Rows:
    """Tokenize (prompt, answer) pairs, with an end token after the answer."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    answers = tokenizer([answer for _, answer in pairs])["input_ids"]
    rows = [p + a + [tokenizer.eos_token_id] for p, a in zip(prompts, answers, strict=True)]
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    return Rows(
        tokens, torch.tensor([len(p) for p in prompts]), torch.tensor([len(row) for row in rows])
    )


def _batches(rows: Rows, schedule: Schedule, generator: torch.Generator) -> list[torch.Tensor]:
    """Draw batches of rows of like length, which saves padding."""
    chunk = schedule.batch * 32
    batches: list[torch.Tensor] = []
    while len(batches) < schedule.steps:
        order = torch.randperm(len(rows.lengths), generator=generator)
        for start in range(0, len(order) - chunk + 1, chunk):
            part = order[start : start + chunk]
            part = part[rows.lengths[part].argsort(stable=True)]
            groups = list(part.split(schedule.batch))
            batches += [groups[i] for i in torch.randperm(len(groups), generator=generator)]
    return batches[: schedule.steps]


def train(model: LlamaForCausalLM, rows: Rows, schedule: Schedule, seed: int) -> float:
    """Train a model in place.

    Args:
        model: Model with float32 weights.
        rows: Training data.
        schedule: Length and heat.
        seed: Order of the data.

    Returns:
        Seconds taken.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=schedule.rate,
        betas=(0.9, 0.98),
        weight_decay=schedule.weight_decay,
    )
    warmup = max(1, schedule.steps // 20)
    start = time.perf_counter()
    model.train()
    for step, chosen in enumerate(_batches(rows, schedule, generator)):
        progress = step / schedule.steps
        heat = min((step + 1) / warmup, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
        optimizer.param_groups[0]["lr"] = schedule.rate * heat
        width = int(rows.lengths[chosen].max())
        tokens = rows.tokens[chosen, :width]
        places = torch.arange(1, width)
        targets = tokens[:, 1:].masked_fill(places >= rows.lengths[chosen, None], _IGNORE)
        in_prompt = places < rows.prompts[chosen, None]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=schedule.mixed):
            hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
            keep = targets != _IGNORE
            if not schedule.prompt_weight:
                keep &= ~in_prompt
            logits = model.lm_head(hidden[keep]).float()
        losses = functional.cross_entropy(logits, targets[keep], reduction="none")
        weights = torch.where(in_prompt, schedule.prompt_weight, 1.0)[keep]
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0 or step == schedule.steps - 1:
            seconds = time.perf_counter() - start
            print(f"  step {step:5d}  loss {loss.item():.3f}  {seconds:6.1f} s", flush=True)
    model.eval()
    return time.perf_counter() - start


def round_weights(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Round weights to bfloat16, the format on disk, and back."""
    return model.to(torch.bfloat16).float()
