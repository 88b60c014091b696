"""The folder that `make gpu-wheels` collects: installed without an index, imported by the Python it is for.

`make gpu-wheels` runs this after its download, which needs the package registry; otherwise it is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from tests.cli.terminal import call
from tests.test_packaging import BARE, brought_by, plain
from tests.tiny_runs import finished

WHEELS = os.environ.get("EVOMERGE_WHEELS", "")
pytestmark = [
    pytest.mark.skipif(not WHEELS, reason="needs the package registry; `make gpu-wheels` runs it"),
    pytest.mark.timeout(1800),
]
REPOSITORY = Path(__file__).parents[1]
SMALL = (
    "numpy",
    "scipy",
    "pyyaml",
    "packaging",
    "filelock",
    "jinja2",
    "huggingface-hub",
    "safetensors",
)
"""What a bare machine has and a driver needs of it; torch is too large to fetch for this."""

LEFT_OUT = {
    "ray",
    "optuna",
    "botorch",
    "gpytorch",
    "linear_operator",
    "cma",
    "wandb",
    "mlflow",
    "tensorboard",
}
"""Loaded only by the pool, optimizers and trackers of these names; see benchmarks/gpu/wheels.txt."""

IMPORT_ALL = """
import importlib, json, pkgutil, evomerge
found, lacking = [], {}
for each in pkgutil.walk_packages(evomerge.__path__, "evomerge.", onerror=lambda name: None):
    if each.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(each.name)
        found.append(each.name)
    except ModuleNotFoundError as error:
        lacking[each.name] = error.name.split(".")[0]
print(json.dumps([found, lacking]))
"""


@cache
def python312() -> str | None:
    """An interpreter that the wheels are for, if there is one that runs."""
    path = shutil.which(os.environ.get("PYTHON312") or "python3.12")
    runs = path and subprocess.run([path, "-c", "import ssl"], capture_output=True).returncode == 0
    return path if runs else None


def installed(python: str, words: Sequence[str | Path], target: Path) -> Path:
    """A folder with what pip installs there."""
    quiet = ("-q", "--disable-pip-version-check", "--no-compile", "--target", target)
    done = subprocess.run(
        [python, "-m", "pip", "install", *quiet, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels as a bare machine installs them (docs/gpu.md)."""
    wheels = sorted(Path(WHEELS).resolve().glob("*.whl"))
    words = ["--no-index", "--no-deps", "--upgrade", *wheels]
    return installed(_interpreter(), words, tmp_path_factory.mktemp("wheels") / "site")


def _interpreter() -> str:
    found = python312()
    if found is None:
        pytest.skip("no Python 3.12 here; name one as PYTHON312")
    return found


def run(site: Path, more: Path, *words: str | Path) -> str:
    """What the bare machine's Python prints, with the wheels and the checkout on its path."""
    path = os.pathsep.join(map(str, (site, more, REPOSITORY)))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [_interpreter(), "-B", *words],
        env=variables | {"PYTHONPATH": path},
        cwd=site,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_folder_is_what_the_list_says_and_small() -> None:
    wheels = list(Path(WHEELS).glob("*.whl"))
    assert sum(path.stat().st_size for path in wheels) < 60 * 2**20
    listed = (REPOSITORY / "benchmarks/gpu/wheels.txt").read_text().splitlines()
    wanted = {plain(line) for line in listed if line and not line.startswith("#")}
    assert {plain(path.name.split("-")[0]) for path in wheels} == wanted


def test_evomerge_is_imported_and_reads_a_campaign(site: Path, tmp_path: Path) -> None:
    more = installed(_interpreter(), SMALL, tmp_path / "more")
    found, lacking = json.loads(run(site, more, "-c", IMPORT_ALL))
    there = brought_by(BARE)
    owners = metadata.packages_distributions()
    unknown = {
        module: name
        for module, name in lacking.items()
        if name not in LEFT_OUT and not {plain(owner) for owner in owners.get(name, ())} & there
    }
    assert unknown == {}
    assert {"evomerge.cli.app", "evomerge.run.driver", "evomerge.front.compute"} <= set(found)
    directory = finished().directory
    told = run(site, more, "-m", "evomerge.cli", "front", directory, "--json")
    assert told == call("front", directory, "--json").out
