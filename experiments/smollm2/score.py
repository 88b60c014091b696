"""Accuracy of base, experts and plain sums of experts on the task items: the table of README.md."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fetch import BASE, COUNTS, HERE, data_path
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

ADAPTERS = HERE / "adapters"


def read_items(path: Path) -> list[dict[str, Any]]:
    """Return the items of a file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def encode(tokenizer: Any, item: dict[str, Any]) -> list[tuple[list[int], int]]:
    """Return the tokens of question and choice, and where the choice starts, for each choice."""
    start = len(tokenizer(item["question"]).input_ids)
    return [(tokenizer(item["question"] + text).input_ids, start) for text in item["choices"]]


def choice_logprobs(
    model: Any, rows: Sequence[tuple[list[int], int]], batch_size: int = 32
) -> torch.Tensor:
    """Return the log-probability of the choice in each row.

    Logits are computed for the positions that are scored, not for all: with this vocabulary the
    head costs as much as a fifth of the model.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    result = torch.zeros(len(rows))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        result[chosen] = batch_logprobs(model, [rows[i] for i in chosen]).detach().float()
    return result


def batch_logprobs(model: Any, rows: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """Return the summed log-probability of the choice of each row, in one padded pass."""
    width = max(len(tokens) for tokens, _ in rows)
    # Causal attention never looks right, so padding on the right needs no mask.
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in rows])
    spots = [(r, p) for r, (tokens, start) in enumerate(rows) for p in range(start, len(tokens))]
    row, position = (torch.tensor(column) for column in zip(*spots, strict=True))
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[row, position - 1]).float()
    logprobs = logits.log_softmax(-1).gather(1, ids[row, position][:, None])[:, 0]
    return torch.zeros(len(rows)).index_add(0, row, logprobs)


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, items: Sequence[dict[str, Any]]) -> float:
    """Return the share of items whose right choice is the most probable one."""
    rows = [row for item in items for row in encode(tokenizer, item)]
    scores = choice_logprobs(model, rows).view(len(items), 4)
    answers = torch.tensor([item["answer"] for item in items])
    return (scores.argmax(1) == answers).float().mean().item()


def deltas(adapter: Path) -> dict[str, torch.Tensor]:
    """Return what an adapter adds to each weight of the base, in float32."""
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    after = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    changed = {name: after[name] - tensor for name, tensor in before.items()}
    return {name: delta for name, delta in changed.items() if delta.any()}


def merged(weights: dict[str, float], vectors: dict[str, dict[str, torch.Tensor]]) -> Any:
    """Return the base in bfloat16 with weighted task vectors added."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    state = model.state_dict()
    for name, weight in weights.items():
        for key, delta in vectors[name].items():
            state[key].add_(delta, alpha=weight)
    return model.to(torch.bfloat16).eval()


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test", choices=["search", "selection", "test"])
    split = parser.parse_args().split
    torch.set_num_threads(1)
    tasks = list(COUNTS)
    items = {task: read_items(data_path(task, split)) for task in tasks}
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    vectors = {task: deltas(ADAPTERS / task) for task in tasks}
    models: dict[str, dict[str, float]] = {"base": {}}
    models |= {f"{task} expert": {task: 1.0} for task in tasks}
    models |= {f"sum, c = {c:.2f}": dict.fromkeys(tasks, c) for c in (1 / 3, 0.6, 1.0)}
    own: dict[str, float] = {}
    print(f"| model | {' | '.join(tasks)} | largest shortfall | CPU seconds |")
    print("| --- |" + " --- |" * (len(tasks) + 2))
    for name, weights in models.items():
        started = time.process_time()
        model = merged(weights, vectors)
        scores = {task: accuracy(model, tokenizer, items[task]) for task in tasks}
        seconds = time.process_time() - started
        if name.endswith("expert"):
            own |= {task: scores[task] for task in weights}
        shortfall = f"{max(own[t] - scores[t] for t in tasks):.3f}" if len(weights) > 1 else ""
        cells = " | ".join(f"{scores[task]:.3f}" for task in tasks)
        print(f"| {name} | {cells} | {shortfall} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
