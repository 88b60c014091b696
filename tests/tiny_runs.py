"""Running tiny campaigns in tests: in this process, in a forked child that may be killed, once for all."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from transformers import PreTrainedModel

from evomerge import failpoint
from evomerge.campaign.campaign import load_campaign
from evomerge.evaluators import lm_eval_tasks
from evomerge.evaluators.packed import Layout, Request
from evomerge.evaluators.packing import choose_layout
from evomerge.evaluators.task_files import TaskFile
from evomerge.front.compute import compute_front
from evomerge.front.front import Front
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.records import read_records
from evomerge.run.driver import run
from tests.hand_made import fold_records
from tests.known_answers import answered_once
from tests.shared import made_once
from tests.tiny_models import write_campaign


@dataclass(frozen=True)
class Finished:
    """A campaign that has run to its end: where its files lie, its campaign folder and its front."""

    file: Path
    directory: Path
    history: History
    front: Front

    @property
    def store(self) -> ItemStore:
        """Its per-item results."""
        return ItemStore(self.directory / ITEMS_FOLDER)

    @property
    def text(self) -> str:
        """The front as canonical JSON text."""
        return json.dumps(self.front.to_json(), sort_keys=True)


def run_file(file: Path, directory: Path, **options: Any) -> History:
    """Run (or go on with) a campaign file in `directory`; merges are stored as bfloat16."""
    campaign = load_campaign(file)
    paths = {name: str(reference.path) for name, reference in campaign.references().items()}
    with forward_passes_once():
        return run(campaign, directory, paths, "bfloat16", **options)


@contextlib.contextmanager
def forward_passes_once() -> Iterator[None]:
    """In the campaigns of this process no model answers the same requests twice in a test run.

    Nor does lm-eval load the same task twice. What the answers are, and how a task is loaded, is asked in
    `tests/evaluators`, without this.
    """
    with (
        mock.patch.object(lm_eval_tasks, "choose_layout", _chosen_once),
        mock.patch.object(lm_eval_tasks, "answer", answered_once),
        mock.patch.object(lm_eval_tasks, "load_task", _loaded_once),
    ):
        yield


_load = lm_eval_tasks.load_task
_loaded: dict[tuple[object, ...], Any] = {}


def _loaded_once(file: TaskFile, folder: Path) -> Any:
    """`load_task`, once for the same bytes: a seventh of the time of a tiny campaign."""
    data = file.data_files()
    if file.code or not data or file.urls():
        return _load(file, folder)
    read = (*file.sources, *data)
    key = (file.name, *(os.path.relpath(path, file.path.parent) for path in read))
    key += tuple(path.read_bytes() for path in read)
    if key not in _loaded:
        _loaded[key] = _load(file, folder)
    task = copy.copy(_loaded[key])
    task._config = copy.deepcopy(task._config)  # in which the evaluator sets fields
    return task


_chosen: dict[str, Layout | None] = {}


def _chosen_once(
    model: PreTrainedModel, items: Sequence[Sequence[Request]], max_length: int
) -> Layout | None:
    """`choose_layout`, tried once for what is alike: in a tiny campaign it takes a tenth of the time."""
    parts = (
        type(model),
        model.config.to_json_string(),
        model.config._attn_implementation,
        model.device,
    )
    key = repr((parts, items, max_length))
    if key not in _chosen:
        _chosen[key] = choose_layout(model, items, max_length)
    return _chosen[key]


def events_of(directory: Path) -> list[dict[str, Any]]:
    """Every event in the ledger of a campaign folder, as its JSON object."""
    return read_records(directory / LEDGER_FILE)


def front_text(directory: Path) -> str:
    """The front of a campaign folder as canonical JSON text, read from its ledger alone."""
    history = fold_records(events_of(directory))
    front = compute_front(history, ItemStore(directory / ITEMS_FOLDER))
    return json.dumps(front.to_json(), sort_keys=True)


@functools.cache
def finished() -> Finished:
    """One campaign run to its end, inline; shared by all tests of a run. Not to be changed."""
    folder = made_once("tiny-campaign", lambda root: _run_to_its_end(write_campaign(root)))
    history = fold_records(events_of(folder / "run"))
    front = compute_front(history, ItemStore(folder / "run" / ITEMS_FOLDER))
    return Finished(folder / "campaign.yaml", folder / "run", history, front)


def _run_to_its_end(file: Path) -> None:
    run_file(file, file.parent / "run")


def forked(action: Callable[[], Any], failpoints: str = "", kill_after: float | None = None) -> int:
    """Do something in a forked child, with failpoints armed; returns its exit code (-9 if killed).

    A fork has everything imported already, so that a test can afford many of them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            failpoint._armed.clear()
            failpoint._armed.update(failpoint.parse(failpoints))
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + (240.0 if kill_after is None else kill_after)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(action: Callable[[], Any], point: str) -> None:
    """Do something in a forked child that sends itself SIGKILL at a failpoint."""
    assert forked(action, f"{point}=kill") == -signal.SIGKILL, f"{point} was not reached"
