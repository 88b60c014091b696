"""The starter's two example tasks: the largest and the smallest of four digits.

Both show the same digits and want different answers, so that fine-tunes on them conflict. Items are made
by code with fixed seeds; which split a set of digits belongs to is a hash of it, so that no item of one
split, nor of the toy models' training data, stands in another.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evomerge.objectives.scores import SPLITS

TASKS = ("largest", "smallest")
ITEMS = {"search": 100, "selection": 100, "test": 200}
BUCKETS = {"search": (0, 1), "selection": (2, 3), "test": (4, 5, 6)}
TRAINING = tuple(range(7, 20))


@dataclass(frozen=True)
class Item:
    """A question with its choices; `answer` is the index of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def right(self) -> str:
        """The right continuation of the question."""
        return self.choices[self.answer]


def bucket(task: str, digits: tuple[int, ...]) -> int:
    """Which twentieth of all items of a task a question belongs to."""
    text = f"{task} {digits}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 20


def items(task: str, buckets: tuple[int, ...], seed: str) -> Iterator[Item]:
    """Items of a task from some of its buckets, drawn without end.

    `first` and `last` are what the toy base model learns; only `TASKS` have evaluators.
    """
    draw = random.Random(seed)
    while True:
        digits = tuple(draw.sample(range(10), 4))
        if bucket(task, digits) in buckets:
            listed = " ".join(map(str, digits))
            choices = tuple(f" {digit}" for digit in digits)
            yield Item(f"The {task} of {listed} is", choices, digits.index(_right(task, digits)))


def _right(task: str, digits: tuple[int, ...]) -> int:
    """The digit a task asks for."""
    if task in ("first", "last"):
        return digits[0 if task == "first" else -1]
    return max(digits) if task == "largest" else min(digits)


def write_tasks(folder: Path) -> None:
    """Write task files and data of both tasks in the form lm-eval reads."""
    (folder / "data").mkdir(parents=True)
    for task in TASKS:
        for split in SPLITS:
            name = f"{task}_{split}"
            rows: dict[str, Item] = {}
            for item in items(task, BUCKETS[split], name):
                rows[item.question] = item
                if len(rows) == ITEMS[split]:
                    break
            lines = [
                json.dumps({"question": i.question, "choices": list(i.choices), "answer": i.answer})
                for i in rows.values()
            ]
            (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            (folder / f"{name}.yaml").write_text(TASK_FILE.format(name=name), encoding="utf-8")


TASK_FILE = """\
# A task of the lm-evaluation-harness; each split is a task of its own, with other items.
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: data/{name}.jsonl}}}}
test_split: test
output_type: multiple_choice
num_fewshot: 0
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
