"""What an installed wheel holds: every module, and nothing that the package would need beside them."""

from __future__ import annotations

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
    assert settings["package-data"] == {"evomerge": others} == {"evomerge": ["py.typed"]}
    assert settings["packages"]["find"]["include"] == ["evomerge", "evomerge.*"]
