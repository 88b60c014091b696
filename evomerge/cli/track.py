"""Experiment trackers: `run --track` while a campaign goes on, and the verb `sync` afterwards."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from evomerge.cli.output import Folder, say
from evomerge.errors import EnvironmentFault, EvomergeError, Problem


class TrackerName(StrEnum):
    """Trackers that can be used."""

    WANDB = "wandb"
    MLFLOW = "mlflow"
    TENSORBOARD = "tensorboard"


Track = Annotated[
    list[TrackerName] | None,
    typer.Option("--track", help="Show the run in a tracker as well; it cannot stop the run."),
]


def sync(
    directory: Folder,
    tracker: Annotated[TrackerName, typer.Argument(metavar="TRACKER", help="Where to.")],
) -> None:
    """Send a whole campaign to a tracker, from its ledger.

    For a tracker that was not in use during the run, or fell behind.
    """
    from evomerge.front.folder import open_campaign_folder
    from evomerge.ledger.history import History
    from evomerge.run.tracking.display import summary_of
    from evomerge.run.tracking.open import open_tracker, require
    from evomerge.run.tracking.record import Recorder, about

    require(tracker.value)
    opened = open_campaign_folder(directory)
    recorder, history, count = Recorder(), History(), 0
    try:
        run = open_tracker(tracker.value, directory)
        run.start(about(opened.history, whole=True))
        for event in opened.events:
            history.apply(event)
            for record in recorder(history):
                run.log(record)
                count += 1
        run.finish(summary_of(directory))
    except EvomergeError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        todo = "see that it can be reached, then run this again"
        problem = Problem("E413", f"{tracker.value} did not take the campaign", found, todo)
        raise EnvironmentFault(problem) from error
    say(f"sent {count} records to {tracker.value}")
