"""The folder of a campaign: new, or one of ours."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import ConfigError, Problem
from evomerge.files.storage import cannot_write, make_folder
from evomerge.ledger.history import CACHE_FOLDER, EXPORTS_FILE, ITEMS_FOLDER, LEDGER_FILE


def make_campaign_folder(directory: Path) -> None:
    """Make a campaign folder, or take one that is ours.

    Raises:
        ConfigError: E135, if it is a file or holds something else.
        EnvironmentFault: if it cannot be made.
    """
    try:
        make_folder(directory)
        _refuse_foreign_files(directory)
    except FileExistsError:
        raise ConfigError(Problem("E135", "this is a file, no folder", file=str(directory))) from None
    except OSError as error:
        raise cannot_write(directory, error) from error


def _refuse_foreign_files(directory: Path) -> None:
    """A campaign folder is new, or one of ours.

    Raises:
        ConfigError: E135, if it holds anything else and no ledger.
    """
    if (directory / LEDGER_FILE).exists():
        return
    ours = (LEDGER_FILE, EXPORTS_FILE, ITEMS_FOLDER, CACHE_FOLDER)
    foreign = sorted(p.name for p in directory.iterdir() if not p.name.startswith(ours))
    if foreign:
        found = f"{len(foreign)} files, {foreign[0]} for one"
        todo = "choose an empty or new folder"
        raise ConfigError(Problem("E135", "this is no campaign folder", found, todo, str(directory)))
