"""A run shown in experiment trackers, as one of its displays."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge.errors import EvomergeError
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.history import History
from evomerge.run.progress import Display, Progress
from evomerge.run.tracking.feed import Feed
from evomerge.run.tracking.open import open_tracker
from evomerge.run.tracking.record import Recorder, about


class Tracked(Display):
    """Hands what is new to trackers, and at the end what the front is.

    Args:
        names: of the trackers.
        directory: the campaign folder.
    """

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        self.names, self.directory = names, directory
        self.record = Recorder(skip_known=True)
        self.feeds: list[Feed] = []

    def __call__(self, history: History, progress: Progress) -> None:
        """Pass on what came since the last call."""
        if not history.campaign:
            return
        if not self.feeds:
            self.feeds = [self._feed(name, history) for name in self.names]
        for record in self.record(history):
            for feed in self.feeds:
                feed.put(record)

    def _feed(self, name: str, history: History) -> Feed:
        opened = functools.partial(open_tracker, name, self.directory)
        return Feed(name, opened, about(history), folder=str(self.directory))

    def __exit__(self, *_: object) -> None:
        summary = summary_of(self.directory) if self.feeds else {}
        for feed in self.feeds:
            feed.close(summary)


def summary_of(directory: Path) -> Mapping[str, float]:
    """How many members the front has and its hypervolume by split; nothing where there is no front yet."""
    try:
        front = open_campaign_folder(directory).front()
    except (EvomergeError, OSError):
        return {}
    volumes = {f"front/hypervolume {split}": value for split, value in front.hypervolume.items()}
    return {"front/members": float(len(front.members)), **volumes}
