"""Every Python snippet of the docs is run as it stands, page by page, on tiny models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert snippets
    write_campaign(tmp_path, evaluators=("math", "code"), budget={"evaluations": 6})
    (tmp_path / "mergekit.yml").write_text(MERGE)
    for path, content in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", text, re.M | re.S):
        (tmp_path / path).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kinds, "_REGISTERED", {})
    monkeypatch.setattr(registered, "_REGISTERED", {})
    monkeypatch.setattr(methods, "_REGISTERED", {})
    names: dict[str, object] = {"__name__": "__main__"}
    for snippet in snippets:
        line = text[: text.index(snippet)].count("\n")
        exec(compile("\n" * line + snippet, page, "exec"), names)
