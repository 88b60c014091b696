"""Faults on the way: targets in use, kills, full disks."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from evomerge.checkpoint.folder import open_folder
from evomerge.errors import (
    EnvironmentFault,
    UsageError,
)
from evomerge.export.export import export_candidate, merge_recipe
from evomerge.export.files import check_manifest
from tests.export.finished import (
    Finished,
    changed_config,
    exports,
    hand_made,
    write_recipe,
)
from tests.files.test_staging import largest_file, names
from tests.tiny_runs import killed_at


def test_the_target_is_refused_before_any_work(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match=r"E601.*the target exists; give `--overwrite`"):
        export_candidate(finished.directory / "nowhere", "knee", tmp_path / "out")


@pytest.mark.parametrize("inside", ["models/math", ""])
def test_an_export_never_replaces_what_it_is_made_of(finished: Finished, inside: str) -> None:
    target = finished.root / inside
    with changed_config(finished.root):
        before = (finished.model("math") / "model.safetensors").read_bytes()
        with pytest.raises(UsageError, match=r"E601.*the export is made of what this folder holds"):
            export_candidate(finished.directory, "knee", target, overwrite=True)
        assert (finished.model("math") / "model.safetensors").read_bytes() == before


EXPORT_POINTS = (
    *("staged", "weights", "files", "checked", "card", "described"),
    *("synced", "exchanged", "published", "cleaned"),
)


def first_bytes(folder: Path) -> bytes:
    """A probe of which export a folder holds: the first weights."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 + length : 8 + length + 64]


@pytest.mark.parametrize("point", EXPORT_POINTS)
def test_killed_over_an_existing_export(finished: Finished, tmp_path: Path, point: str) -> None:
    out = tmp_path / "out"
    old = write_recipe(tmp_path / "old.json", hand_made(finished))
    new = write_recipe(tmp_path / "new.json", hand_made(finished, dtype="float32"))
    merge_recipe(old, out)
    before = first_bytes(out)
    killed_at(lambda: merge_recipe(new, out, overwrite=True), f"export.{point}")
    assert check_manifest(out) == []
    open_folder(out, "export")
    published = point in ("exchanged", "published", "cleaned")
    assert (first_bytes(out) != before) == published
    merge_recipe(new, out, overwrite=True)
    assert check_manifest(out) == []
    assert first_bytes(out) != before
    assert names(tmp_path) == ["new.json", "old.json", "out"]


@pytest.mark.parametrize("point", ["checked", "scored", "described", "renamed", "cleaned"])
def test_killed_while_exporting_a_candidate(finished: Finished, tmp_path: Path, point: str) -> None:
    out = tmp_path / "out"
    before = len(exports(finished.directory, "test_used"))
    killed_at(lambda: export_candidate(finished.directory, "knee", out), f"export.{point}")
    assert out.exists() == (point in ("renamed", "cleaned"))
    if out.exists():
        assert check_manifest(out) == []
    # What was seen of the test items is counted, whether the export was published or not.
    assert len(exports(finished.directory, "test_used")) == before + (point != "checked")
    export_candidate(finished.directory, "knee", out, overwrite=True, rescore=False)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("size", [100, 3_000, 20_000])
@pytest.mark.parametrize("over", [False, True])
def test_a_full_disk(finished: Finished, tmp_path: Path, size: int, over: bool) -> None:
    out = tmp_path / "out"
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished))
    if over:
        merge_recipe(file, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()} if over else {}
    with largest_file(size), pytest.raises(EnvironmentFault, match=r"E403.*out: no room to write"):
        merge_recipe(file, out, overwrite=over)
    assert names(tmp_path) == (["out", "recipe.json"] if over else ["recipe.json"])
    if over:
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_under_the_small_files(finished: Finished, tmp_path: Path) -> None:
    # Weights in shards below the limit, and a tokenizer above it.
    file = write_recipe(tmp_path / "recipe.json", hand_made(finished))
    template = finished.model("base") / "vocab.json"
    template.write_text(json.dumps({f"w{i}": i for i in range(10_000)}))
    try:
        with largest_file(30_000), pytest.raises(EnvironmentFault, match=r"E403.*out: no room"):
            merge_recipe(file, tmp_path / "out", shard_bytes=8_000)
    finally:
        template.unlink()
    assert names(tmp_path) == ["recipe.json"]
