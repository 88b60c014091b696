"""The trackers by name; each is looked for without being loaded, so that a missing one is known at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import EnvironmentFault, Problem
from evomerge.run.tracking.record import Tracker

FOLDER = "tracking"
"""In a campaign folder: what trackers write that write files."""


@dataclass(frozen=True)
class TrackerKind:
    """A tracker: the module it needs, and the extra that installs it."""

    module: str
    extra: str


KINDS: Mapping[str, TrackerKind] = {
    "wandb": TrackerKind("wandb", "wandb"),
    "mlflow": TrackerKind("mlflow", "mlflow"),
    "tensorboard": TrackerKind("tensorboard", "tensorboard"),
}


def require(name: str) -> None:
    """See that a tracker can be used, before a campaign begins.

    Raises:
        EnvironmentFault: E412, if its library is not installed.
    """
    kind = KINDS[name]
    if importlib.util.find_spec(kind.module) is None:
        todo = f"pip install 'evomerge[{kind.extra}]'"
        wrong = f"tracking with {name} needs {kind.module}"
        raise EnvironmentFault(Problem("E412", wrong, "it is not installed", todo))


def open_tracker(name: str, directory: Path) -> Tracker:
    """The tracker of a name; loads its library, which may take seconds.

    Args:
        name: one of `KINDS`.
        directory: the campaign folder.
    """
    if name == "wandb":
        from evomerge.run.tracking.wandb_run import WandbRun

        return WandbRun(directory / FOLDER)
    if name == "mlflow":
        from evomerge.run.tracking.mlflow_run import MlflowRun

        return MlflowRun()
    from evomerge.run.tracking.tensorboard_files import TensorboardFiles

    return TensorboardFiles(directory / FOLDER)
