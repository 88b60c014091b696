"""Train two small models that have nothing in common but their texts, and write lines to judge them on.

Both learn the quickstart's tasks, each in its own shape, from other random weights and in another order: what
`evomerge align` and `evomerge barrier` are for. Each takes about a minute of one core.

    python experiments/quickstart/two_seeds.py runs/two_seeds
    evomerge barrier runs/two_seeds/one runs/two_seeds/two --text runs/two_seeds/text.txt
"""

import argparse
from pathlib import Path

import torch
from items import draw
from model import build_model, build_tokenizer
from tasks import PLAIN_SHAPES, TASKS
from train import Schedule, encode_rows, train

SEEDS = {"one": 1, "two": 2}
ITEMS = 8_000
LINES = 20


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs, lines = [], []
    for task, shape in PLAIN_SHAPES.items():
        items = draw(TASKS[task], "train", ITEMS, f"{task} two seeds", unique=False)
        taught = [(shape.format(item.question), item.gold) for item in items]
        known = set(taught)
        pairs += taught
        others = draw(TASKS[task], "train", 10 * LINES, f"{task} two seeds held out", unique=True)
        told = [(shape.format(item.question), item.gold) for item in others]
        lines += [pair for pair in told if pair not in known][:LINES]
    tokenizer = build_tokenizer(text for pair in (*pairs, *lines) for text in pair)
    rows = encode_rows(tokenizer, pairs)
    schedule = Schedule(arguments.steps, batch=64, rate=2e-3, prompt_weight=1.0, mixed=False)
    for name, seed in SEEDS.items():
        model = build_model(tokenizer, seed)
        model.set_attn_implementation("eager")
        train(model, rows, schedule, seed)
        model.set_attn_implementation("sdpa")
        model.save_pretrained(arguments.out / name)
        tokenizer.save_pretrained(arguments.out / name)
    text = "".join(f"{prompt}{answer}".replace("\n", " ") + "\n" for prompt, answer in lines)
    (arguments.out / "text.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
