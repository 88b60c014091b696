"""Pictures: every kind and format, what is in them, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from evomerge.errors import EnvironmentFault, UsageError
from evomerge.front.pictures import (
    coefficient_table,
    front_figure,
    heatmap_figure,
    history_figure,
    new_figure,
    save,
)
from evomerge.front.tables import front_latex, latex_text, write_front_parquet
from evomerge.front.trace import TracePoint
from evomerge.objectives.objective import Objective
from evomerge.recipe.recipe import MERGED, CheckpointSource, MergedSource, Recipe, identity_path
from tests.front.fronts import made

PLACES = ("embed", "layers.0.attn", "layers.0.mlp", "layers.1.attn", "layers.1.mlp", "final_norm")
POINTS = {
    "c0a": (0.9, 0.1, 0.2),
    "c0b": (0.5, 0.5, 0.5),
    "c0c": (0.1, 0.9, 0.3),
    "base": (0.1, 0.1, 0.1),
}


def recipe(merged: MergedSource | CheckpointSource) -> Recipe:
    return Recipe(sources={MERGED: merged}, path=identity_path(2), outer={}, dtype="bfloat16")


def merge() -> Recipe:
    tables = {"math": {"": 0.5, "layers.1": 0.7, "layers.1.mlp": 0.9}, "code": {"": 0.2, "embed": -0.1}}
    return recipe(
        MergedSource("task_arithmetic", ("math", "code"), "base", coefficients={"weight": tables})
    )


def test_coefficients_by_layer_and_module() -> None:
    found = coefficient_table("c0a", merge(), PLACES)
    # embed, layers 0 and 1, final norm; attn and mlp across.
    assert found["math"].tolist() == [[0.5, 0.5], [0.5, 0.5], [0.7, 0.9], [0.5, 0.5]]
    assert found["code"].tolist() == [[-0.1, -0.1], [0.2, 0.2], [0.2, 0.2], [0.2, 0.2]]
    less = coefficient_table("c0a", merge(), PLACES[:4])
    assert np.isnan(less["math"][2, 1])
    with pytest.raises(UsageError, match=r"E506.*`base` is a plain model"):
        coefficient_table("base", recipe(CheckpointSource("somewhere")), PLACES)


@pytest.mark.parametrize("end", ["png", "svg", "pdf"])
def test_every_kind_in_every_format(end: str, tmp_path: Path) -> None:
    objectives = (Objective("a.acc", "maximize"), Objective("b.loss", "minimize"))
    points = [TracePoint("c0", 1, 10, 1, 0.1, (0.5, None)), TracePoint("c1", 2, 20, 2, 0.2, (0.6, 1.5))]
    figures = {
        "front": front_figure(made(POINTS)),
        "history": history_figure("hand", points, objectives),
        "heatmap": heatmap_figure("c0a", merge(), 2, PLACES),
    }
    assert len(figures["front"].axes) == 3
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for name, figure in figures.items():
        path = tmp_path / f"{name}.{end}"
        save(figure, path)
        assert path.read_bytes().startswith(begins[end])
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.{end}" for n in sorted(figures)]


def test_what_a_picture_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = front_figure(made(POINTS))
    with pytest.raises(UsageError, match=r"E500.*ends in .png, .svg, .pdf; found 'front.gif'"):
        save(figure, tmp_path / "front.gif")
    save(figure, tmp_path / "new" / "front.png")
    assert (tmp_path / "new" / "front.png").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="E408"):
        save(figure, tmp_path / "file" / "front.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = r"E411.*pictures need matplotlib; it is not installed; pip install 'evomerge\[plot\]'"
    with pytest.raises(EnvironmentFault, match=words):
        new_figure(1)


def test_latex_and_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    front = made(POINTS)
    text = front_latex(front, front.members[:2])
    assert text.count(r" \\") == 1 + 2 + 1
    assert r"c0a & 90.0 $\pm$ 1.0 & 10.0 $\pm$ 1.0 & 20.0 $\pm$ 1.0" in text
    assert "c0c" not in text
    assert text.count(r"\begin{tabular}{lrrrl}") == text.count(r"\end{tabular}") == 1
    assert latex_text("a_b & 50% \\ {x}") == r"a\_b \& 50\% \textbackslash{} \{x\}"
    # In LaTeX's first font encoding these print as inverted marks and a dash: "breaks a.acc >= 0.6".
    assert latex_text("<>|") == r"\textless{}\textgreater{}\textbar{}"
    write_front_parquet(front, tmp_path / "front.parquet")
    frame = pandas.read_parquet(tmp_path / "front.parquet")
    assert list(frame["id"]) == ["c0a", "c0b", "c0c", "base"]
    assert list(frame["t1.acc"]) == [0.1, 0.5, 0.9, 0.1]
    with pytest.raises(EnvironmentFault, match="E408"):
        write_front_parquet(front, tmp_path / "front.parquet" / "front.parquet")
    write_front_parquet(front, tmp_path / "new" / "front.parquet")
    assert (tmp_path / "new" / "front.parquet").is_file()
