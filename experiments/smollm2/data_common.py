"""What the three task makers share: the item, its prompt shape, and how splits are chosen."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass

SEED = 20
SPLITS = ("search", "selection", "test", "train")
# Out of 100 buckets; the rest is training data.
_BUCKETS = {"search": 10, "selection": 10, "test": 14}


@dataclass(frozen=True)
class Item:
    """One multiple-choice item; `choices` carry their own leading space."""

    id: str
    question: str
    choices: list[str]
    answer: int

    def row(self) -> dict[str, object]:
        """Return the item as a JSON object."""
        return asdict(self)

    @property
    def gold(self) -> str:
        """The right choice."""
        return self.choices[self.answer]


def make_item(name: str, prompt: str, gold: str, wrong: Iterable[str], rng: random.Random) -> Item:
    """Build an item with its choices in random order.

    All three tasks share one prompt shape and name no task. What a bare input asks for is then
    what an expert learnt, and experts disagree about it.
    """
    texts = [gold, *wrong]
    if len(set(texts)) != 4:
        raise ValueError(f"item {name} needs four different choices, has {texts}")
    rng.shuffle(texts)
    return Item(
        id=name,
        question=f"Input: {prompt}\nOutput:",
        choices=[f" {text}" for text in texts],
        answer=texts.index(gold),
    )


def split_of(key: str) -> str:
    """Return the split a key belongs to; it depends on nothing but the key."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100
    for split, width in _BUCKETS.items():
        if bucket < width:
            return split
        bucket -= width
    return "train"
