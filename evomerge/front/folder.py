"""A campaign folder opened for reading: no lock is taken, so that one can look while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import Problem, UsageError
from evomerge.front.compute import compute_front
from evomerge.front.decision import Decision, decide
from evomerge.front.draws import draw
from evomerge.front.front import Front
from evomerge.front.uncertainty import FrontUncertainty, front_uncertainty
from evomerge.ledger.events import Event
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE, History
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.ledger import read_events
from evomerge.objectives.scores import SPLITS


@dataclass(frozen=True)
class OpenedFolder:
    """The events of a campaign folder and the history they fold to."""

    path: Path
    events: list[Event]
    history: History

    def __repr__(self) -> str:
        return f"<OpenedFolder {self.path}: {len(self.events)} events, {self.history!r}>"

    def front(self) -> Front:
        """The front as it stands; see `compute_front`."""
        return compute_front(self.history, ItemStore(self.path / ITEMS_FOLDER))

    def decision(self, front: Front) -> Decision:
        """That front made ready to decide by; see `decide`."""
        return decide(front, draw(front, self.history, ItemStore(self.path / ITEMS_FOLDER)))

    def front_uncertainty(self, front: Front) -> FrontUncertainty:
        """How far that front may be believed; see `front_uncertainty`."""
        store = ItemStore(self.path / ITEMS_FOLDER)
        splits = tuple(split for split in SPLITS if split in front.hypervolume)
        return front_uncertainty(self.history, store, front.objectives, front.scaling, splits)


def open_campaign_folder(path: Path) -> OpenedFolder:
    """Read a campaign folder.

    Raises:
        UsageError: E509, if it holds no ledger, or one without a single event.
        LedgerDamaged: if the ledger cannot be read.
    """
    todo = "give the folder that `evomerge run` was given as --dir"
    try:
        events = read_events(path / LEDGER_FILE)
    except (FileNotFoundError, NotADirectoryError):
        found = "there is no such folder"
        if path.is_dir():
            found = f"it has no {LEDGER_FILE}"
            inside = sorted(path.glob(f"*/{LEDGER_FILE}"))
            todo = f"did you mean {inside[0].parent}?" if len(inside) == 1 else todo
        elif path.exists():
            found = "this is a file"
        raise UsageError(Problem("E509", "no campaign here", found, todo, str(path))) from None
    if not events:
        raise UsageError(Problem("E509", "this campaign has not begun yet", "", todo, str(path)))
    return OpenedFolder(path, events, History.fold(events))
