"""What is asked for: ids and picks, also those that fit nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli.app import main
from evomerge.errors import (
    CampaignInUse,
    LedgerDamaged,
    UsageError,
)
from evomerge.export import export
from evomerge.export.export import ExportReport, export_candidate
from evomerge.front.compute import compute_front
from evomerge.ledger.history import EXPORTS_FILE, ITEMS_FOLDER
from evomerge.ledger.item_store import ItemStore
from evomerge.ledger.records import RecordFile
from tests.export.finished import (
    Finished,
    copy_ledger,
)
from tests.files.test_staging import names


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("c3", r"E506.*no candidate `c3`; there are \d+, the last is c\d+; .*did you mean c00003\?"),
        ("c99999999", r"E506.*no candidate `c99999999`; there are \d+, the last is c\d+"),
        (
            "knees",
            r"E506.*no candidate `knees`; .*baselines: base, .*did you mean knee\? give an id, knee, best:",
        ),
        ("best:speed", r"E506.*`speed` is no objective"),
    ],
)
def test_a_choice_that_fits_nothing(
    finished: Finished, tmp_path: Path, choice: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_candidate(finished.directory, choice, tmp_path / "out")
    assert names(tmp_path) == []


def test_a_dominated_candidate_is_exported_with_a_warning(finished: Finished, tmp_path: Path) -> None:
    front = compute_front(finished.history, ItemStore(finished.directory / ITEMS_FOLDER))
    on_front = {member.recipe for member in front.members}
    lost = next(c.id for c in finished.history.searched() if c.recipe not in on_front)
    report = export_candidate(finished.directory, lost, tmp_path / "out")
    assert any(f"{lost} is not on the front" in line for line in report.warnings)
    assert "This model is not one of them." in (tmp_path / "out" / "README.md").read_text()


def test_an_export_can_be_compared(
    finished: Finished, exported: tuple[Path, ExportReport], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(finished.directory), str(exported[0]), "base", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["a"] == finished.knee()


def test_no_campaign_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"E509.*no campaign here; it has no ledger.jsonl"):
        export_candidate(tmp_path, "knee", tmp_path / "out")


def test_a_failed_candidate_and_one_that_waits(finished: Finished, tmp_path: Path) -> None:
    first, second = (c.id for c in itertools.islice(finished.history.searched(), 2))

    def change(event: dict[str, Any]) -> dict[str, Any] | None:
        if event["event"] == "evaluated" and event["id"] == first and event["split"] == "search":
            kept = {key: event[key] for key in ("id", "recipe", "split", "key", "time")}
            return {"event": "failed", "failure": "nonfinite_weights", "message": "NaN in T", **kept}
        if event["event"] in ("selection", "told"):
            return None
        gone = event["event"] == "evaluated" and (event["id"], event["split"]) != (first, "search")
        return None if gone and (event["id"] == second or event["split"] == "selection") else event

    directory = copy_ledger(finished, tmp_path / "run", change)
    with pytest.raises(UsageError, match=rf"E507.*`{first}` failed.*nonfinite_weights: NaN in T"):
        export_candidate(directory, first, tmp_path / "out")
    with pytest.raises(UsageError, match=rf"E507.*`{second}` has not been evaluated yet; go on with"):
        export_candidate(directory, second, tmp_path / "out")
    report = export_candidate(directory, "knee", tmp_path / "out")
    assert "the selection phase is not done: the front is by search scores" in report.warnings
    assert set(report.scores) == {"search", "test"}


def test_the_log_of_exports_is_held_or_damaged(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.log, "WAIT", 0.1)
    directory = copy_ledger(finished, tmp_path / "run", lambda event: event)
    with RecordFile.open(directory / EXPORTS_FILE, create=True):
        with pytest.raises(CampaignInUse, match="E501"):
            export_candidate(directory, "knee", tmp_path / "out")
        assert names(tmp_path) == ["run"]
        report = export_candidate(directory, "knee", tmp_path / "out", rescore=False)
    assert any("not noted in the campaign: error[E501]" in line for line in report.warnings)
    (directory / EXPORTS_FILE).write_bytes(b"what is this\nand this\n")
    with pytest.raises(LedgerDamaged, match=r"E502.*exports.jsonl"):
        export_candidate(directory, "knee", tmp_path / "second")
    assert names(tmp_path) == ["out", "run"]
