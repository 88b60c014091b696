"""The data sets of lm-eval tasks, opened as lm-eval opens them, without it and from this machine alone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import datasets
import huggingface_hub.constants

from evomerge.evaluators.task_files import TaskFile
from evomerge.files.scratch import scratch_folder


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """No library asks a hub, also where it was imported before anybody could say so by its variables."""
    switches: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in switches]
    for module in switches:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars: lm-eval and datasets offer no argument against all of theirs."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def own_cache(file: TaskFile) -> Iterator[dict[str, Any]]:
    """The `dataset_kwargs` with which a task's data is read, valid inside the context."""
    kwargs = file.dataset_kwargs
    with scratch_folder() as cache:
        if file.data_files():
            # The shared cache tells files apart by path and time of change, not by content.
            kwargs |= {"cache_dir": str(cache), "keep_in_memory": True}
        yield kwargs


def open_data(file: TaskFile) -> Any:
    """The data set of a task by the names of its splits, before any code of the task's own.

    Raises:
        Exception: whatever datasets raises about the data set.
    """
    if file.urls():
        # Before it says that it is offline, datasets looks whether they are there.
        raise ConnectionError(f"{file.urls()[0]} is a place on the network")
    path, name = file.config.get("dataset_path"), file.config.get("dataset_name")
    with quiet(), without_network(), own_cache(file) as kwargs:
        # As lm-eval does.
        kwargs.pop("trust_remote_code", None)
        return datasets.load_dataset(path, name, **kwargs)
