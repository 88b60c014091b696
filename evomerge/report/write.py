"""Write a report to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evomerge.files.storage import written_whole
from evomerge.report.content import read_content
from evomerge.report.page import render

REPORT_FILE = "report.html"


def report_html(directory: Path, rivals: Sequence[Path] = ()) -> str:
    """The report of a campaign folder as one HTML file's text; raises as `read_content`."""
    content = read_content(directory, rivals)
    return render(content.context, content.data)


def write_report(directory: Path, out: Path | None = None, rivals: Sequence[Path] = ()) -> Path:
    """Write the report of a campaign folder; what was there before is replaced as a whole.

    Args:
        directory: of the campaign; a run may be under way in it.
        out: the file, in a folder that is made if new; `report.html` in the campaign folder by default.
        rivals: campaign folders to draw beside it.

    Returns:
        The file's path.

    Raises:
        UsageError, LedgerDamaged: as `read_content`.
        EnvironmentFault: E403 no room, E408 cannot be written.
    """
    target = out if out is not None else directory / REPORT_FILE
    text = report_html(directory, rivals)
    with written_whole(target) as hidden:
        hidden.write_text(text, encoding="utf-8")
    return target
