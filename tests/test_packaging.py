"""What an installed wheel holds: every module, and nothing that the package would need beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "evomerge"


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
