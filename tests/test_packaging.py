"""What an installed wheel holds: every module, and nothing that the package would need beside them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "evomerge"
BARE = (
    "accelerate", "numpy", "pandas", "peft", "pyarrow", "pytest", "safetensors", "scipy", "torch",
    "transformers",
)  # fmt: skip
"""What a bare machine with a card has (docs/gpu.md)."""


def test_every_folder_with_modules_is_a_package() -> None:
    """setuptools' `find` silently leaves out the others, which a checkout would never show."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [f for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_the_wheel_declares_all_that_is_no_module() -> None:
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    others = sorted(str(path.relative_to(PACKAGE)) for path in files if path.suffix != ".py")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-data"] == {"evomerge": ["py.typed", "report/assets/*"]}
    assert [f for f in others if f != "py.typed" and not f.startswith("report/assets/")] == []
    assert settings["packages"]["find"]["include"] == ["evomerge", "evomerge.*"]


def test_an_older_python_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    older = tmp_path / "python3.10"
    code = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[2])"
    older.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    older.chmod(0o755)
    command = ["make", "install", f"PYTHON={older}", f"VENV={tmp_path / 'venv'}"]
    # Under `make test` a make inside it would take over flags and announce its folder.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env)
    assert done.returncode != 0
    found = f"evomerge needs Python 3.11 or newer; {older} is 3.10: make install PYTHON=python3.11"
    assert found in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "venv").exists()


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def brought_by(names: Iterable[str]) -> set[str]:
    """Distributions and all that they require, as far as they are installed here."""
    found: set[str] = set()
    left = [plain(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            stated = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted = [Requirement(each) for each in stated]
        left += [plain(r.name) for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def imported_at_once(body: Iterable[ast.stmt]) -> Iterator[str]:
    """What statements import when they are run, those for type checkers and in functions left out."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, (ast.If, ast.Try, ast.With)) and "TYPE_CHECKING" not in ast.dump(node):
            yield from imported_at_once(node.body)


def test_the_wheels_for_a_bare_machine_with_a_card_hold_all_that_is_imported_there() -> None:
    """By the statements of the benchmark, of the tests that need a card and of all that they import."""
    marked = [
        path for path in (REPOSITORY / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()
    ]
    left = [*(REPOSITORY / "benchmarks/gpu").glob("*.py"), *marked, REPOSITORY / "tests/conftest.py"]
    seen: set[Path] = set()
    others: dict[str, Path] = {}
    while left:
        path = left.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for name in imported_at_once(ast.parse(path.read_text()).body):
            parts = name.split(".")
            if parts[0] not in ("evomerge", "benchmarks", "tests"):
                others.setdefault(parts[0], path.relative_to(REPOSITORY))
                continue
            for count in range(1, len(parts) + 1):
                place = REPOSITORY.joinpath(*parts[:count])
                left += [place / "__init__.py", place.with_name(f"{place.name}.py")]
    assert {"torch", "lm_eval", "pydantic", "filelock"} <= set(others)
    listed = (REPOSITORY / "benchmarks/gpu/wheels.txt").read_text().splitlines()
    there = {plain(line) for line in listed if line and not line.startswith("#")} | brought_by(BARE)
    owners = metadata.packages_distributions()
    missing = {
        f"{name} ({path})"
        for name, path in others.items()
        if name not in sys.stdlib_module_names and not {plain(d) for d in owners.get(name, ())} & there
    }
    assert missing == set()
