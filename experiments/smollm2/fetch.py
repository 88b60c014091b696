"""Rebuild what is not kept in the repository: the base model and the task data.

Run `python experiments/smollm2/fetch.py`; a second run finds everything in place.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import data_code
import data_math
import data_translation
from base_model import FetchError, ensure_base, sha256_of
from data_common import SPLITS, Item

HERE = Path(__file__).resolve().parent
BASE = HERE / "models" / "base"
TRAIN = HERE / "data"
TASKS = HERE.parents[1] / "evaluators" / "smollm2" / "tasks" / "data"
DIGESTS = HERE / "data_digests.json"
COUNTS = {
    "translation": {"search": 200, "selection": 200, "test": 300, "train": 6000},
    "math": {"search": 200, "selection": 200, "test": 300, "train": 20000},
    "code": {"search": 150, "selection": 150, "test": 300, "train": 8000},
}


def data_path(task: str, split: str) -> Path:
    """Return where the items of a task and split are."""
    return TRAIN / f"{task}_train.jsonl" if split == "train" else TASKS / f"{task}_{split}.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Fetch base and data; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dictionary", type=Path, metavar="FILE", help="the Debian package")
    parser.add_argument(
        "--write-digests", action="store_true", help="record the items as those of README.md"
    )
    parser.add_argument("--force", action="store_true", help="make everything again")
    options = parser.parse_args(arguments)
    try:
        made = ensure_data(options.dictionary, options.force)
        print(f"task data: {'written' if made else 'in place'}")
        if options.write_digests:
            write_digests()
        print(compare_digests())
        made = ensure_base(BASE, options.force)
        print(f"base model: {'written' if made else 'in place'} ({BASE.relative_to(HERE)})")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def ensure_data(dictionary: Path | None, force: bool) -> bool:
    """Write the items of every task and split; return whether anything was missing."""
    paths = [data_path(task, split) for task in COUNTS for split in SPLITS]
    if not force and all(path.is_file() for path in paths):
        return False
    items = make_items(dictionary)
    for (task, split), rows in items.items():
        path = data_path(task, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(item.row(), ensure_ascii=False) + "\n" for item in rows)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return True


def make_items(dictionary: Path | None) -> dict[tuple[str, str], list[Item]]:
    """Make all items and check that no two splits share one."""
    pairs = data_translation.fetch_pairs(dictionary)
    files = data_code.source_files()
    items = {}
    for task, counts in COUNTS.items():
        questions: set[str] = set()
        for split in SPLITS:
            source: Iterator[Item]
            if task == "translation":
                source = data_translation.generate(split, pairs)
            elif task == "math":
                source = data_math.generate(split)
            else:
                source = data_code.generate(split, files, per_file=60 if split == "train" else 6)
            rows: list[Item] = []
            for item in source:
                # Two library files can hold the same lines.
                if item.question not in questions:
                    questions.add(item.question)
                    rows.append(item)
                if len(rows) == counts[split]:
                    break
            if split != "train" and len(rows) < counts[split]:
                raise FetchError(f"{task} {split} has {len(rows)} items, not {counts[split]}")
            items[task, split] = rows
    assert_disjoint(items)
    return items


def assert_disjoint(items: dict[tuple[str, str], list[Item]]) -> None:
    """Check that no two splits share a question, and that no split repeats one."""
    for task in COUNTS:
        questions = [item.question for split in SPLITS for item in items[task, split]]
        assert len(set(questions)) == len(questions), f"splits of {task} overlap"


def data_digests() -> dict[str, str]:
    """Return the digest of each file of items."""
    paths = [data_path(task, split) for task in COUNTS for split in SPLITS]
    return {path.name: sha256_of(path) for path in paths}


def write_digests() -> None:
    """Record the items that are there now."""
    record = {"python": platform.python_version(), **data_digests()}
    DIGESTS.write_text(json.dumps(record, indent=2) + "\n")


def compare_digests() -> str:
    """Say whether the items are those the published accuracies were measured on."""
    expected = json.loads(DIGESTS.read_text())
    changed = [name for name, digest in data_digests().items() if digest != expected.get(name)]
    if not changed:
        return "task data: same items as in README.md"
    return (
        f"task data: {', '.join(changed)} differ from the items of README.md, made with Python "
        f"{expected['python']} (this is {platform.python_version()}): expect other accuracies"
    )


if __name__ == "__main__":
    sys.exit(main())
