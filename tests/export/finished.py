"""A campaign that has run to its end, and how tests of its exports look at and change it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.front.compute import compute_front
from evomerge.front.front import pick
from evomerge.ledger.history import EXPORTS_FILE, ITEMS_FOLDER, LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.records import RecordFile, read_records
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe, identity_path
from evomerge.run.driver import run
from tests.tiny_models import write_campaign

CHAT = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@dataclass(frozen=True)
class Finished:
    """A campaign that has run to its end; tests read it, and put back what they change."""

    root: Path
    directory: Path
    history: History

    def knee(self) -> str:
        front = compute_front(self.history, ItemStore(self.directory / ITEMS_FOLDER))
        return pick(front, "knee").id

    def real_merge(self) -> str:
        """A candidate that is none of the baselines."""
        plain = {c.recipe for c in self.history.candidates.values() if c.is_baseline}
        return next(c.id for c in self.history.searched() if c.recipe not in plain)

    def model(self, name: str) -> Path:
        return self.root / "models" / name

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.model(name) / "model.safetensors")


def run_to_the_end(root: Path) -> Finished:
    """Two experts, eight candidates; the base has a chat template and a generation config."""
    file = write_campaign(
        root,
        experts=("math", "code"),
        optimizer={"population": 4},
        budget={"evaluations": 8},
        baselines={"single": [0.5]},
    )
    base = root / "models" / "base"
    (base / "chat_template.jinja").write_text(CHAT)
    (base / "generation_config.json").write_text('{"max_new_tokens":  7}\n')
    (base / "README.md").write_text("a card that must not be copied")
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    report.raise_problems()
    history = run(campaign, root / "run", report.paths, report.storage)
    return Finished(root, root / "run", history)


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """A file with other content for a while."""
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def exports(directory: Path, kind: str) -> list[dict[str, Any]]:
    path = directory / EXPORTS_FILE
    return [e for e in read_records(path) if e["event"] == kind] if path.exists() else []


def copy_ledger(
    finished: Finished, to: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> Path:
    """A campaign folder with the same items and other events; None leaves an event out."""
    to.mkdir()
    shutil.copytree(finished.directory / ITEMS_FOLDER, to / ITEMS_FOLDER)
    with RecordFile.open(to / LEDGER_FILE, create=True) as ledger:
        for event in read_records(finished.directory / LEDGER_FILE):
            plain = {key: value for key, value in event.items() if key not in ("n", "format")}
            wanted = change(plain)
            if wanted is not None:
                ledger.append(wanted)
    return to


@contextmanager
def changed_config(root: Path) -> Iterator[None]:
    """Make a folder look like a model folder for a while."""
    (root / "config.json").write_text("{}")
    try:
        yield
    finally:
        (root / "config.json").unlink()


def hand_made(finished: Finished, **changes: Any) -> Recipe:
    merged = MergedSource(
        method="task_arithmetic",
        inputs=("math", "code"),
        base="base",
        coefficients={"weight": {"math": {"": 0.25}, "code": {"": 0.5}}},
    )
    paths = {name: CheckpointSource(str(finished.model(name))) for name in ("base", "math", "code")}
    fields: dict[str, Any] = {
        "sources": {**paths, "merged": merged},
        "path": identity_path(2),
        "outer": dict.fromkeys(("embed", "final_norm", "head"), "merged"),
    }
    return Recipe(**{**fields, **changes})


def write_recipe(path: Path, recipe: Recipe) -> Path:
    path.write_text(json.dumps(recipe.to_json()))
    return path
