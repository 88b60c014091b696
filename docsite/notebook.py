"""The notebook: its cells as written here, and what they showed when they were run.

    python -m docsite.notebook FOLDER

runs them in a folder that `evomerge init FOLDER` made and writes docs/notebook.ipynb. Cells are run by this
file and not by a kernel, so that nothing has to be installed for it; what they print and show is kept.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "notebook.ipynb"

CELLS: tuple[tuple[str, str], ...] = (
    (
        "markdown",
        "# A search from a notebook\n\nIn a folder that `evomerge init toys` made: toy experts, trained in "
        "less than a minute, and a campaign over them. `--base`, `--expert` and `--task` take your own.",
    ),
    (
        "code",
        'import evomerge as em\n\ncampaign = em.Campaign.load("campaign.yaml")\ncampaign.check()',
    ),
    (
        "markdown",
        "The report says what is wrong, or what the run will take. The next cell starts the search; run it "
        "again after an interrupt and it goes on where it was.",
    ),
    ("code", 'run = campaign.run("run")\nrun'),
    (
        "markdown",
        "The front, by selection items, which the search never saw, with standard errors and baselines.",
    ),
    ("code", "front = run.front()\nfront"),
    ("code", "front.to_pandas().head()"),
    ("code", "axes = front.plot()"),
    ("markdown", "A pick is a member: the knee, the best mean, or by a preference."),
    ("code", 'knee = front.pick("knee")\nknee'),
    ("code", "knee.recipe.digest"),
    (
        "markdown",
        "Exported, it is an ordinary checkpoint with a card, reloaded and scored again on test items.",
    ),
    ("code", 'knee.export("exports/knee")'),
)


def executed() -> dict[str, Any]:
    """The notebook with what its cells show, run where this process is."""
    import matplotlib as mpl

    mpl.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(CELLS):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        if kind == "code":
            count = sum(each["cell_type"] == "code" for each in cells) + 1
            cell |= {"execution_count": count, "outputs": _run(text, names, count)}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _run(text: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Outputs of a cell: what it printed, its last expression, and a picture it drew."""
    body = ast.parse(text).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = _lines(value._repr_html_())
        outputs.append(
            {"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}}
        )
    if "axes" in names:
        picture = io.BytesIO()
        names.pop("axes").figure.savefig(picture, format="png", dpi=80, metadata={"Software": None})
        encoded = base64.b64encode(picture.getvalue()).decode()
        data = {"image/png": [encoded], "text/plain": ["<Figure>"]}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return outputs


def _lines(text: str) -> list[str]:
    here = re.escape(str(Path.cwd()))
    return re.sub(rf"{here}/?", "", text).splitlines(keepends=True)


def main() -> None:
    """Run the notebook in the folder that is named, and write it."""
    os.chdir(sys.argv[1])
    text = json.dumps(executed(), indent=1, ensure_ascii=False)
    PAGE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
