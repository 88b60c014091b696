"""A campaign folder as a person holds it, finished or under way: it is read anew at every look."""

from __future__ import annotations

from pathlib import Path

from evomerge.api.front import Front
from evomerge.front.folder import open_campaign_folder
from evomerge.front.tables import html_table
from evomerge.ledger.history import History
from evomerge.run.standing import line, standing


class Run:
    """What a campaign folder holds; no lock is taken, so that one may look while a run goes on.

    Args:
        directory: the campaign folder.

    Raises:
        UsageError: E509, if it holds no campaign.
        LedgerDamaged: if its ledger cannot be read.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        open_campaign_folder(self.directory)

    @property
    def history(self) -> History:
        """All that happened so far, folded from the ledger."""
        return open_campaign_folder(self.directory).history

    def front(self) -> Front:
        """The front as it stands.

        Raises:
            UsageError: E507, before the baselines are evaluated.
        """
        return Front(self.directory, open_campaign_folder(self.directory).front())

    def _line(self) -> str:
        history = self.history
        return line(standing(history, budget=history.budget))

    def __repr__(self) -> str:
        name = self.history.stated.name
        return f"<Run of {name} in {self.directory}; {self._line()}>"

    def _repr_html_(self) -> str:
        history = self.history
        rows = [
            ("folder", str(self.directory)),
            ("standing", self._line()),
            ("stopped", history.stopped or "not yet"),
        ]
        return html_table(["", ""], rows, f"Run of {history.config['name']}")


def open(directory: str | Path) -> Run:
    """The run in a campaign folder; see `Run`."""
    return Run(directory)
