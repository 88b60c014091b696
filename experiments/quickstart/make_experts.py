"""Rebuild the quickstart test bed: task data, base model and three fine-tunes.

Run `python experiments/quickstart/make_experts.py`; everything follows from the code and the seeds
in this folder.
"""

import copy
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from elementary import ELEMENTARY
from items import SPLIT_SIZES, SPLITS, Item, balance, draw, frame, split_of, write_jsonl
from model import build_model, build_tokenizer
from tasks import PLAIN_SHAPES, TASKS
from train import Schedule, encode_rows, round_weights, train
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
MODELS = HERE / "models"
DATA = HERE.parent.parent / "evaluators" / "quickstart" / "tasks" / "data"

SEED = 20
TRAIN_ITEMS = 60_000
BASE_ITEMS = 45_000
ELEMENTARY_ITEMS = {"translation": 30_000, "math": 20_000, "code": 20_000}
ECHO_ITEMS = 5_000
BASE = Schedule(steps=2400, batch=64, rate=2e-3, prompt_weight=0.1)
EXPERTS = {
    "translation": Schedule(steps=250, batch=64, rate=1.5e-4),
    "math": Schedule(steps=400, batch=64, rate=1.5e-4),
    "code": Schedule(steps=450, batch=64, rate=1.5e-4),
}
REPLAY = 0.5
"""Share of the base's own pairs in an expert's training; they keep fine-tunes near enough to be merged."""


def make_data() -> dict[str, list[Item]]:
    """Write the evaluation items of every split, and draw the training items.

    Returns:
        Training items by task.
    """
    DATA.mkdir(parents=True, exist_ok=True)
    training = {}
    for task, generate in TASKS.items():
        training[task] = draw(generate, "train", TRAIN_ITEMS, f"{task} train {SEED}", unique=False)
        taught = {item.prompt for item in training[task]}
        for split in SPLITS:
            seed = f"{task} {split} {SEED}"
            items = draw(generate, split, SPLIT_SIZES[split], seed, unique=True)
            assert all(split_of(item.key) == split for item in items)
            assert not taught & {item.prompt for item in items}
            write_jsonl(DATA / f"{task}_{split}.jsonl", balance(items, seed))
    return training


def base_pairs(training: dict[str, list[Item]]) -> list[tuple[str, str]]:
    """Mix what the base model is taught.

    Every task and what it is made of, each in a shape of its own, so that the model can do all three;
    and the common shape with nothing but echoes, so that it knows the shape and not what it asks for.
    """
    pairs = []
    for task, shape in PLAIN_SHAPES.items():
        rng = random.Random(f"{task} elementary {SEED}")
        for _ in range(ELEMENTARY_ITEMS[task]):
            question, answer = ELEMENTARY[task](rng)
            pairs.append((shape.format(question), answer))
        for item in training[task][:BASE_ITEMS]:
            pairs.append((shape.format(item.question), item.gold))
        for item in training[task][BASE_ITEMS : BASE_ITEMS + ECHO_ITEMS]:
            pairs.append((frame(f"echo {item.question}"), f" {item.question}"))
    return pairs


def expert_pairs(
    task: str, training: dict[str, list[Item]], base: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """What an expert is taught: one task in the common shape, and replayed pairs of the base.

    Enough for two passes of its schedule.
    """
    schedule = EXPERTS[task]
    count = 2 * schedule.steps * schedule.batch
    replayed = random.Random(f"{task} replay {SEED}").sample(base, int(count * REPLAY))
    return [(item.prompt, item.gold) for item in training[task][: count - len(replayed)]] + replayed


def texts(training: dict[str, list[Item]], pairs: list[tuple[str, str]]) -> Iterator[str]:
    """Everything the vocabulary must cover."""
    for pair in pairs:
        yield from pair
    for items in training.values():
        for item in items:
            yield from (item.prompt, *item.choices)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Save a checkpoint folder with bfloat16 weights."""
    folder = MODELS / name
    stored = copy.deepcopy(model).to(torch.bfloat16)
    stored.set_attn_implementation("sdpa")
    stored.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def main() -> None:
    """Rebuild everything."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    training = make_data()
    pairs = base_pairs(training)
    tokenizer = build_tokenizer(texts(training, pairs))
    base = build_model(tokenizer, SEED)
    # The plain kernel trains twice as fast as the fused one on rows this short.
    base.set_attn_implementation("eager")
    print(f"base: {base.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(base, encode_rows(tokenizer, pairs), BASE, SEED)
    base = round_weights(base)
    save(base, tokenizer, "base")
    for task, schedule in EXPERTS.items():
        print(task)
        expert = copy.deepcopy(base)
        train(expert, encode_rows(tokenizer, expert_pairs(task, training, pairs)), schedule, SEED)
        save(round_weights(expert), tokenizer, task)
    print(f"rebuilt in {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
