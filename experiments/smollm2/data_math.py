"""Arithmetic items made by code: sums and differences with near-miss distractors."""

from __future__ import annotations

import random
from collections.abc import Iterator

from data_common import SEED, Item, make_item, split_of


def generate(split: str) -> Iterator[Item]:
    """Yield items of one split without end, no problem twice."""
    rng = random.Random(f"{SEED}-math-{split}")
    seen: set[str] = set()
    while True:
        left, right = rng.randint(10, 499), rng.randint(10, 499)
        # A sum belongs to one split in either order of its terms.
        left, right = max(left, right), min(left, right)
        sign = rng.choice("+-")
        key = f"{left} {sign} {right}"
        if key in seen or split_of(key) != split:
            continue
        seen.add(key)
        if sign == "+" and rng.random() < 0.5:
            left, right = right, left
        result = left + right if sign == "+" else left - right
        prompt = f"{left} {sign} {right}"
        wrong = [str(number) for number in near_misses(result, rng)]
        yield make_item(f"math-{split}-{len(seen)}", prompt, str(result), wrong, rng)


def near_misses(result: int, rng: random.Random) -> list[int]:
    """Return three wrong results with the slips a person makes: a carry, or a digit off by one."""
    steps = [1, 10, 100] if result >= 110 else [1, 2, 10]
    candidates = {result + sign * step for step in steps for sign in (1, -1)}
    digits = str(result)
    if len(digits) > 1:
        candidates.add(int(digits[:-2] + digits[-1] + digits[-2]))
    candidates.discard(result)
    return rng.sample(sorted(number for number in candidates if number >= 0), 3)
