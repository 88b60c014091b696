"""The site builds offline without a warning, and its pages ask for nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_it_builds_without_a_warning_and_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    fetched = r'(?:src=|<link [^>]*href=|url\(|@import )["\']?(?:https?:)?//[^"\' >)]+'
    for page in [*pages, *tmp_path.rglob("*.css")]:
        assert re.findall(fetched, page.read_text(encoding="utf-8")) == [], page
