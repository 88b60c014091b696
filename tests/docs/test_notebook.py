"""The notebook's cells are those of its source, run on tiny models, and what it keeps names no machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docsite.notebook import CELLS, PAGE, executed
from tests.tiny_models import write_campaign


def test_its_cells_are_those_that_are_run() -> None:
    book = json.loads(PAGE.read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]] == list(CELLS)
    assert all(cell["outputs"] for cell in book["cells"] if cell["cell_type"] == "code")
    shown = [out for cell in book["cells"] for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", {}) for out in shown)
    assert not re.search(r"/(home|tmp|work|root|Users)/", PAGE.read_text(encoding="utf-8"))


def test_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_campaign(tmp_path, experts=("math", "code"), budget={"evaluations": 6})
    monkeypatch.chdir(tmp_path)
    book = executed()
    assert all(cell["outputs"] for cell in book["cells"] if cell["cell_type"] == "code")
    assert (tmp_path / "exports" / "knee" / "README.md").is_file()
