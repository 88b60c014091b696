"""The power fails while a checkpoint is published: it is there whole or not at all, its cost is counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from evomerge.export.export import export_candidate
from evomerge.export.files import MANIFEST_FILE, check_manifest
from evomerge.ledger.history import EXPORTS_FILE
from tests.durability import ENDS, Disk, Left, below, content, write
from tests.export.finished import Finished

EXPORTED = b'"event":"export"'


def test_an_export_is_whole_and_its_use_of_test_items_counted_at_every_moment(
    finished: Finished, tmp_path: Path
) -> None:
    root = tmp_path / "disk"
    shutil.copytree(finished.directory, root / "run")
    moments: list[Left] = []

    def power_fails(disk: Disk) -> None:
        moments.extend(left for left in map(disk.left, ENDS) if "exports/knee/" in left)

    before = root / "run" / EXPORTS_FILE
    exports = before.read_bytes().count(EXPORTED) if before.exists() else 0
    with Disk(root, power_fails) as disk:
        export_candidate(root / "run", "knee", root / "exports" / "knee")
        at_last = [disk.left(end) for end in ENDS]
    published = content(root / "exports" / "knee")
    log = (root / "run" / EXPORTS_FILE).read_bytes()
    assert log.count(EXPORTED) == exports + 1
    for left in at_last:
        assert left[f"run/{EXPORTS_FILE}"] == log
    assert moments
    for left in (*moments, *at_last):
        assert below(left, "exports/knee") == published
        assert b'"event":"test_used"' in left[f"run/{EXPORTS_FILE}"]
    write(below(at_last[0], "exports/knee"), tmp_path / "again")
    assert check_manifest(tmp_path / "again") == []
    assert set(json.loads(published[MANIFEST_FILE])["files"]) == set(published) - {MANIFEST_FILE}
