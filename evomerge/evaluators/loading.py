"""Loading lm-eval tasks from their files: without a shared cache, without progress bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from evomerge.evaluators.data import own_cache, quiet
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
    with quiet(), own_cache(file) as kwargs:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        # A group of one task is lm-eval's public way to load a task with fields replaced.
        entry = {"task": file.name, "dataset_kwargs": kwargs}
        group = {"group": f"evomerge_{file.name}", "task": [entry]}
        return manager.load(group)["tasks"][file.name]
