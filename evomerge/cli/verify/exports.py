"""The exports of a campaign, as its log of exports tells of them."""

from __future__ import annotations

import json
from pathlib import Path

from evomerge.cli.verify.report import Verification
from evomerge.errors import LedgerDamaged
from evomerge.export.files import check_manifest
from evomerge.export.log import ExportEvent, read_log
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import EXPORTS_FILE, History

MANIFEST_FILE = "evomerge.json"


def check_exports(directory: Path, history: History, result: Verification) -> None:
    """The log of exports is sound and names recorded recipes; exports that lie here are unchanged.

    The log keeps no paths: an export is looked for inside and beside the campaign folder.
    """
    log = directory / EXPORTS_FILE
    try:
        events = read_log(directory)
    except LedgerDamaged as error:
        result.problems += error.problems
        return
    if not events:
        return
    result.count("events of the export log with sound checksums", len(events))
    seen: set[Path] = set()
    for event in events:
        where = f"{log.name}, event {event.n}"
        candidate = history.candidates.get(event.id)
        if candidate is None or candidate.recipe != event.recipe:
            result.fault("an export of a recipe the campaign does not have", event.id, where)
        elif isinstance(event, ExportEvent):
            beside = {directory / event.out, directory.parent / event.out} - seen
            seen |= beside
            for folder in sorted(beside):
                _check_export(folder, candidate, where, result)


def _check_export(folder: Path, candidate: Candidate, where: str, result: Verification) -> None:
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return
    try:
        if json.loads(manifest.read_bytes())["recipe"] != candidate.recipe:
            return  # overwritten by a later export
        differences = check_manifest(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        result.fault("the manifest of an export cannot be read", f"{manifest}: {error}", where)
        return
    for difference in differences:
        result.fault("an export was changed", f"{folder.name}/{difference}", where)
    result.count("exports with the files of their manifest", 1)
