from __future__ import annotations

import csv
import io

import pytest

from tests.cli.terminal import call
from tests.tiny_runs import Finished, finished


@pytest.fixture
def campaign() -> Finished:
    return finished()


@pytest.mark.parametrize("columns", [40, 100])
def test_history(campaign, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    found = call("history", campaign.directory)
    assert found.code == 0
    lines = found.out.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert "▁" in found.out
    assert "best" in found.out
    assert f"{campaign.front.hypervolume['search']:.4f}" in found.out
    data = call("history", campaign.directory, "--json").json
    read = list(csv.reader(io.StringIO(call("history", campaign.directory, "--csv").out)))
    assert read[0] == data["columns"]
    assert len(read) - 1 == len(data["rows"])
    assert call("history", campaign.directory, "--json", "--csv").code == 2


@pytest.mark.parametrize("kind", ["front", "history", "heatmap"])
def test_plot(campaign, tmp_path, kind):
    out = tmp_path / "picture.svg"
    found = call("plot", campaign.directory, "--kind", kind, "--pick", "best:mean", "-o", out)
    # The best mean of a tiny campaign may be a plain expert, which has no coefficients.
    if found.code != 0:
        assert kind == "heatmap"
        assert "is a plain model" in found.err
        name = next(
            c.id for c in campaign.history.searched() if not campaign.history.baselines_equal_to(c)
        )
        found = call("plot", campaign.directory, "--kind", kind, "--pick", name, "-o", out)
    assert found.code == 0, found.err
    assert found.err == f"wrote {out}\n"
    assert b"<svg" in out.read_bytes()
    assert "E500" in call("plot", campaign.directory, "-o", tmp_path / "x.jpg").err
    assert call("plot", campaign.directory, "-o", tmp_path / "new" / "x.svg").code == 0


def test_front_for_papers(campaign, tmp_path):
    out = tmp_path / "front.parquet"
    found = call("front", campaign.directory, "--latex", "--all", "--parquet", out)
    assert found.code == 0
    assert found.out.count(r"\\") == 1 + len(campaign.front.members) + len(campaign.front.references)
    assert out.is_file()
    assert "exclude one another" in call("front", campaign.directory, "--latex", "--csv").err
