"""Loading lm-eval tasks from their files: offline, without a shared cache, without progress bars."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import datasets
from lm_eval.tasks import TaskManager

from evomerge.evaluators.task_files import TaskFile, installed_tasks
from evomerge.evaluators.templates import sandbox_templates

sandbox_templates()


def load_task(file: TaskFile, folder: Path) -> Any:
    """lm-eval's task object with its data; `folder` is where lm-eval looks for tasks.

    Raises:
        Exception: whatever lm-eval, datasets or a template raises about the task.
    """
    if folder == installed_tasks():
        # All installed tasks take lm-eval seconds to index; one folder is enough.
        folder = file.path.parent
    kwargs = file.dataset_kwargs
    with quiet(), tempfile.TemporaryDirectory(prefix="evomerge-") as cache:
        if file.data_files():
            # The shared cache tells files apart by path and time of change, not by content.
            kwargs |= {"cache_dir": cache, "keep_in_memory": True}
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        # A group of one task is lm-eval's public way to load a task with fields replaced.
        entry = {"task": file.name, "dataset_kwargs": kwargs}
        group = {"group": f"evomerge_{file.name}", "task": [entry]}
        return manager.load(group)["tasks"][file.name]


@contextlib.contextmanager
def quiet() -> Any:
    """No progress bars: lm-eval and datasets offer no argument against all of theirs."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()
