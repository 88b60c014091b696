"""Weights & Biases: one run for a campaign folder. `WANDB_PROJECT`, `WANDB_MODE` and others hold as usual."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from evomerge.run.tracking.record import About, Record

PROJECT = "evomerge"
STEP = "results"


class WandbRun:
    """A run of W&B; a later session with the same run goes on with it.

    Numbers stand over `results`, not over W&B's own steps, which may only grow.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run: Any = None

    def start(self, about: About) -> None:
        """Begin or go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.campaign,
            id=about.run,
            resume="allow",
            config=dict(about.config),
            dir=str(self.folder),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)

    def log(self, record: Record) -> None:
        """Add numbers."""
        self.run.log({**record.values, STEP: record.step, "seconds": record.seconds})

    def finish(self, summary: Mapping[str, float]) -> None:
        """Send what is left."""
        for name, value in summary.items():
            self.run.summary[name] = value
        self.run.finish()
