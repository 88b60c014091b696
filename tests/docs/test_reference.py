"""Pages of docs/reference are what the code says, and every field and code has its words."""

from __future__ import annotations

import re

from docsite.pages import FOLDER, pages
from evomerge.errors import CODES, RANGES
from tests.layers import SOURCES


def test_the_pages_are_those_of_the_code() -> None:
    made = pages()
    assert {path.name for path in FOLDER.glob("*.md")} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"run `python -m docsite` ({name})"


def test_every_code_is_explained_and_none_besides() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES.values())
    assert set(re.findall(r'"(E\d{3})"', sources)) == set(CODES)
    assert {code[:2] for code in CODES} == set(RANGES)
    assert list(CODES) == sorted(CODES)
