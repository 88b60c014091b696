"""One finished campaign and the export of its knee, for all tests of exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.export.export import ExportReport, export_candidate
from tests.export.finished import Finished, run_to_the_end


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_to_the_end(tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="session")
def exported(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    out = tmp_path_factory.mktemp("exports") / "knee"
    return out, export_candidate(finished.directory, "knee", out)
