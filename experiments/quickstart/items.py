"""What an item is, how items are split, and the choices of an item.

Every generator hands out an `Item`: a prompt, four choices and a content key. The split of an item
is a hash of its key, so training data can never hold what an evaluation asks.
"""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("search", "selection", "test")
SPLIT_SIZES = {"search": 300, "selection": 300, "test": 600}
_BUCKETS = 10


@dataclass(frozen=True)
class Item:
    """One multiple-choice question.

    Attributes:
        key: Canonical content; two items with one key ask for the same knowledge.
        question: What is asked, without any prompt around it.
        choices: Four continuations, each with its own leading space.
        answer: Index of the right choice.
    """

    key: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int

    @property
    def prompt(self) -> str:
        """The question in the shape that the tasks share."""
        return frame(self.question)

    @property
    def gold(self) -> str:
        """The right continuation."""
        return self.choices[self.answer]


Generator = Callable[[random.Random], Item]


def frame(question: str) -> str:
    """Put a question into the prompt shape that all tasks share."""
    return f"Q: {question} A:"


def grid_choices(
    rng: random.Random, gold: tuple[str, str], other: tuple[str, str], render: Callable[..., str]
) -> tuple[tuple[str, str, str, str], int]:
    """Make four choices from two values of each of two slots.

    All four combinations appear, so no choice is the odd one out or the centre of the others:
    only the prompt tells which is right.

    Args:
        rng: Source of the order.
        gold: Right values of both slots.
        other: Wrong values of both slots.
        render: Maps two slot values to a choice.

    Returns:
        The choices and the index of the right one.
    """
    pairs = [(a, b) for a in (gold[0], other[0]) for b in (gold[1], other[1])]
    return shuffled(rng, [render(a, b) for a, b in pairs])


def shuffled(rng: random.Random, choices: list[str]) -> tuple[tuple[str, str, str, str], int]:
    """Shuffle choices of which the first is right; add the leading space."""
    order = rng.sample(range(4), 4)
    first, second, third, fourth = (f" {choices[i]}" for i in order)
    return (first, second, third, fourth), order.index(0)


def split_of(key: str) -> str:
    """Say which split a content key belongs to."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % _BUCKETS
    return SPLITS[bucket] if bucket < len(SPLITS) else "train"


def draw(generate: Generator, split: str, count: int, seed: str, unique: bool) -> list[Item]:
    """Draw items of one split.

    Args:
        generate: Item generator.
        split: `train` or one of `SPLITS`.
        count: Number of items.
        seed: Names the random stream.
        unique: Whether each content key may appear only once.

    Returns:
        The items, in drawing order.
    """
    rng = random.Random(seed)
    items: list[Item] = []
    seen: set[str] = set()
    while len(items) < count:
        item = generate(rng)
        if split_of(item.key) != split or len(set(item.choices)) < 4:
            continue
        if unique and item.key in seen:
            continue
        seen.add(item.key)
        items.append(item)
    return items


def balance(items: list[Item], seed: str) -> list[Item]:
    """Reorder choices so that each answer position is right equally often."""
    rng = random.Random(seed)
    positions = [i % 4 for i in range(len(items))]
    rng.shuffle(positions)
    balanced = []
    for item, position in zip(items, positions, strict=True):
        choices = list(item.choices)
        choices[position], choices[item.answer] = choices[item.answer], choices[position]
        first, second, third, fourth = choices
        balanced.append(Item(item.key, item.question, (first, second, third, fourth), position))
    return balanced


def write_jsonl(path: Path, items: list[Item]) -> None:
    """Write items in the form the lm-eval tasks read."""
    with path.open("w", encoding="utf-8") as file:
        for number, item in enumerate(items):
            row = {
                "id": f"{path.stem}-{number:04d}",
                "question": item.prompt,
                "choices": list(item.choices),
                "answer": item.answer,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
