"""Every Python snippet of README and docs is run as it stands, page by page, on tiny models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge.evaluators import registered
from evomerge.optimizers import kinds
from evomerge.recipe import registered as methods
from tests.tiny_models import write_campaign

REPOSITORY = Path(__file__).parents[1]
PAGES = ("README.md", "docs/python.md")

MERGE = """merge_method: linear
models:
  - {model: models/math, parameters: {weight: 0.5}}
  - {model: models/code, parameters: {weight: 0.5}}
dtype: bfloat16
"""


@pytest.fixture(autouse=True)
def nothing_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What snippets register is gone afterwards, what they write is in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    for module in (kinds, registered, methods):
        monkeypatch.setattr(module, "_REGISTERED", {})


def run_snippets(page: str) -> dict[str, Any]:
    """Write the YAML files of a page and run its Python as it stands; gives the names it leaves."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for path, content in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", text, re.M | re.S):
        Path(path).write_text(content)
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert snippets
    names: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets:
        line = text[: text.index(snippet)].count("\n")
        exec(compile("\n" * line + snippet, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page: str, tmp_path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    write_campaign(tmp_path, evaluators=("math", "code"), budget={"evaluations": 6})
    (tmp_path / "mergekit.yml").write_text(MERGE)
    run_snippets(page)


def test_the_evaluator_of_the_docs_passes_its_suite(tmp_path: Path) -> None:
    """Registered under the name that its entry point would give it."""
    texts = "".join(f'{{"text": "banana {number}"}}\n' for number in range(64))
    (tmp_path / "texts.jsonl").write_text(texts)
    names = run_snippets("docs/objectives.md")
    em.evaluator("vowels")(names["share"])
    for check in names["CHECKS"]:
        names["test_conformance"](check)
