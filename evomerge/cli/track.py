"""Experiment trackers: `run --track` while a campaign goes on, and the verb `sync` afterwards."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.output import Folder, say
from evomerge.errors import EnvironmentFault, EvomergeError, Problem

if TYPE_CHECKING:
    from evomerge.ledger.history import History
    from evomerge.run.progress import Display, Progress
    from evomerge.run.tracking.feed import Feed


class TrackerName(StrEnum):
    """Trackers that can be used."""

    WANDB = "wandb"
    MLFLOW = "mlflow"
    TENSORBOARD = "tensorboard"


Track = Annotated[
    list[TrackerName] | None,
    typer.Option("--track", help="Show the run in a tracker as well; it cannot stop the run."),
]


class Tracked:
    """A display that hands what is new to trackers, too."""

    def __init__(self, display: Display, names: Sequence[TrackerName], directory: Path) -> None:
        from evomerge.run.tracking.record import Recorder

        self.display, self.names, self.directory = display, names, directory
        self.record = Recorder(skip_known=True)
        self.feeds: list[Feed] = []

    def __call__(self, history: History, progress: Progress) -> None:
        """Pass on what came since the last call."""
        if history.campaign:
            if not self.feeds:
                self.feeds = [self._feed(name, history) for name in self.names]
            for record in self.record(history):
                for feed in self.feeds:
                    feed.put(record)
        self.display(history, progress)

    def _feed(self, name: TrackerName, history: History) -> Feed:
        from evomerge.run.tracking.feed import Feed
        from evomerge.run.tracking.open import open_tracker
        from evomerge.run.tracking.record import about

        opened = functools.partial(open_tracker, name.value, self.directory)
        return Feed(name.value, opened, about(history), folder=str(self.directory))

    def __enter__(self) -> Tracked:
        self.display.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.display.__exit__(kind, error, trace)
        summary = _summary(self.directory) if self.feeds else {}
        for feed in self.feeds:
            feed.close(summary)


def _summary(directory: Path) -> Mapping[str, float]:
    """What the front is at the end; nothing where there is none yet."""
    from evomerge.front.folder import open_campaign_folder

    try:
        front = open_campaign_folder(directory).front()
    except (EvomergeError, OSError):
        return {}
    volumes = {f"front/hypervolume {split}": value for split, value in front.hypervolume.items()}
    return {"front/members": float(len(front.members)), **volumes}


def sync(
    directory: Folder,
    tracker: Annotated[TrackerName, typer.Argument(metavar="TRACKER", help="Where to.")],
) -> None:
    """Send a whole campaign to a tracker, from its ledger: one that was off, or fell behind."""
    from evomerge.front.folder import open_campaign_folder
    from evomerge.ledger.history import History
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
        run.finish(_summary(directory))
    except EvomergeError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        todo = "see that it can be reached, then run this again"
        problem = Problem("E413", f"{tracker.value} did not take the campaign", found, todo)
        raise EnvironmentFault(problem) from error
    say(f"sent {count} records to {tracker.value}")
