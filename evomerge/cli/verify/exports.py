"""The exports of a campaign, as its log of exports tells of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.cli.verify.report import Verification
from evomerge.errors import ConfigError, LedgerDamaged
from evomerge.export.files import RECIPE_FILE, check_manifest
from evomerge.export.log import ExportEvent, read_log
from evomerge.export.taken import as_searched
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import EXPORTS_FILE, History
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.rows import read_rows

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
        stated = json.loads(manifest.read_bytes())
        searched = stated.get("searched")
        if (stated if searched is None else searched)["recipe"] != candidate.recipe:
            return  # overwritten by a later export
        differences = check_manifest(folder)
        if searched is not None and _searched_digest(folder, searched) != candidate.recipe:
            differences.append(
                f"{RECIPE_FILE}: not the candidate's but for tokenizer and chat template"
            )
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        result.fault("the manifest of an export cannot be read", f"{manifest}: {error}", where)
        return
    for difference in differences:
        result.fault("an export was changed", f"{folder.name}/{difference}", where)
    result.count("exports with the files of their manifest", 1)


def _searched_digest(folder: Path, searched: Mapping[str, Any]) -> str:
    """Digest of an export's recipe with the tokenizer and the chat template that the candidate had."""
    file = folder / RECIPE_FILE
    published = recipe_from_json(
        json.loads(file.read_bytes()), str(file), lambda digest, where: read_rows(folder, digest, where)
    )
    return as_searched(published, searched).digest
