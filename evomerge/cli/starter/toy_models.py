"""Toy models for the starter: a tiny Llama and two fine-tunes of it, trained here in seconds.

The base learns to copy the first or last of four digits and a little of both tasks; each expert learns
one task to the end and loses the other. Everything is seeded, so that one kind of
machine makes the same weights each time.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.cli.starter.tasks import TASKS, TRAINING, Item, items

if TYPE_CHECKING:
    import torch

SPECIAL = ("<pad>", "<eos>", "<unk>")
WORDS = ("The", "of", "is", "first", "last", "largest", "smallest", *map(str, range(10)))
LAYERS = 3
SEED = 20
BATCH = 64
STEPS = 60
BASE_TASKS = (*("first", "last") * 3, *TASKS)
BASE_RATE, EXPERT_RATE = 3e-3, 2e-3
"""Short and hot: trained longer, the experts would no longer conflict."""


def write_toy_models(folder: Path, tell: Callable[[str], None]) -> None:
    """Train and write `base` and one expert for each task, as ordinary checkpoint folders.

    Args:
        folder: where the model folders go.
        tell: is told what is being done, a line each.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads would make other sums, and be slower at this size
    try:
        _train_all(folder, tell)
    finally:
        torch.set_num_threads(threads)


def _train_all(folder: Path, tell: Callable[[str], None]) -> None:
    import torch

    tokenizer = _tokenizer()
    torch.manual_seed(SEED)
    model = _model(len(SPECIAL) + len(WORDS))
    start = time.perf_counter()
    _train(model, tokenizer, BASE_TASKS, BASE_RATE)
    _save(model, tokenizer, folder / "base")
    tell(f"trained a toy base model ({time.perf_counter() - start:.0f} s)")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for task in TASKS:
        start = time.perf_counter()
        model.load_state_dict(weights)
        _train(model, tokenizer, (task,), EXPERT_RATE)
        _save(model, tokenizer, folder / task)
        tell(f"trained a toy expert, {task} ({time.perf_counter() - start:.0f} s)")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=32,
    )


def _model(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def _train(model: Any, tokenizer: Any, tasks: tuple[str, ...], rate: float) -> None:
    """Train in place on the answer token only."""
    import torch

    streams = [items(task, TRAINING, f"train {task} {i}") for i, task in enumerate(tasks)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    model.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 20, 1.0) * (1 - 0.9 * step / STEPS)
        tokens, answers = _batch(tokenizer, streams)
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, -1]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), answers)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()


def _batch(tokenizer: Any, streams: list[Iterator[Item]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts int64 [rows, tokens], all of one length, and answers int64 [rows]."""
    import torch

    rows = [item for stream in streams for item in itertools.islice(stream, BATCH // len(streams))]
    prompts = tokenizer([row.question for row in rows])["input_ids"]
    answers = tokenizer([row.right for row in rows])["input_ids"]
    return torch.tensor(prompts), torch.tensor(answers)[:, 0]


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
