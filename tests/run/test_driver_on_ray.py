"""A campaign end to end on Ray. A file of its own, so that one process of a test run starts one Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.tiny_models import write_campaign
from tests.tiny_ray import local_ray
from tests.tiny_runs import finished, front_text, run_file


def test_ray_gives_the_same_front(tmp_path: Path) -> None:
    local_ray()
    folder = tmp_path / "c"
    shutil.copytree(finished().file.parent, folder, ignore=shutil.ignore_patterns("run"))
    run_file(write_campaign(folder, workers={"pool": "ray", "count": 2}), folder / "run")
    assert front_text(folder / "run") == finished().text
