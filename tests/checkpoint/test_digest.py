"""Changed weight files are noticed by a look, named, and not confused with files that were only touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from evomerge.checkpoint import digest as module
from evomerge.checkpoint.digest import WeightFiles, content_digest, surely_differ
from evomerge.checkpoint.folder import open_folder
from evomerge.errors import CheckpointError
from tests.tiny_models import write_model


@pytest.fixture
def folders(tmp_path: Path):
    experts = {"base": None, "math": 0}
    for name, expert in experts.items():
        write_model(tmp_path / "models" / name, expert=expert, tokenizer=False)
    return {name: open_folder(tmp_path / "models" / name, name) for name in experts}


def _flip(path: Path) -> None:
    """Change one byte and put the modification time back, as a careless or malicious tool would."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _weights(folder) -> Path:
    return folder.path / folder.files[0]


def test_unchanged_files_are_read_once_by_all_workers_of_a_machine(folders, tmp_path, monkeypatch):
    first = WeightFiles(folders, tmp_path / "cache")
    digests = {name: first.digest(name) for name in folders}
    assert digests == {name: content_digest(folder) for name, folder in folders.items()}
    read: list[Path] = []
    whole = module._file_digest
    monkeypatch.setattr(module, "_file_digest", lambda path: read.append(path) or whole(path))
    first.check(digests)
    WeightFiles(folders, tmp_path / "cache").check(digests)
    assert read == []
    WeightFiles(folders, tmp_path / "elsewhere").check(digests)
    assert len(read) == sum(len(folder.files) for folder in folders.values())


def test_a_flipped_bit_is_noticed_and_the_file_named(folders, tmp_path):
    weights = WeightFiles(folders, tmp_path / "cache")
    digests = {name: weights.digest(name) for name in folders}
    file = _weights(folders["math"])
    _flip(file)
    for looker in (weights, weights, WeightFiles(folders, tmp_path / "cache")):
        with pytest.raises(CheckpointError, match=r"E239.*the weights of `math` changed") as caught:
            looker.check(digests)
        assert [problem.file for problem in caught.value.problems] == [str(file)]
    _flip(file)
    weights.check(digests)


def test_another_file_in_its_place_is_noticed(folders, tmp_path):
    weights = WeightFiles(folders, tmp_path / "cache")
    digests = {name: weights.digest(name) for name in folders}
    shutil.copyfile(_weights(folders["base"]), tmp_path / "other")
    os.replace(tmp_path / "other", _weights(folders["math"]))
    with pytest.raises(CheckpointError, match=r"E239.*`math`"):
        weights.check(digests)
    _weights(folders["math"]).unlink()
    with pytest.raises(CheckpointError, match=r"E240.*cannot be read any more"):
        weights.check(digests)


def test_a_record_that_is_not_ours_is_not_believed(folders, tmp_path):
    weights = WeightFiles(folders, tmp_path / "cache")
    digests = {name: weights.digest(name) for name in folders}
    for record in (tmp_path / "cache").glob("files-*.json"):
        record.write_text('{"model.safetensors": 3')
    WeightFiles(folders, tmp_path / "cache").check(digests)


def test_a_touched_or_copied_file_is_the_same(folders, tmp_path):
    weights = WeightFiles(folders, tmp_path / "cache")
    digests = {name: weights.digest(name) for name in folders}
    file = _weights(folders["math"])
    os.utime(file)
    shutil.copyfile(file, tmp_path / "copy")
    os.replace(tmp_path / "copy", file)
    weights.check(digests)


def test_a_few_blocks_tell_that_weights_differ_and_never_that_the_same_do(folders, tmp_path):
    base, expert = folders["base"], folders["math"]
    assert surely_differ(base, expert)
    shutil.copytree(base.path, tmp_path / "moved")
    moved = open_folder(tmp_path / "moved", "other")
    assert not surely_differ(base, moved)
    _flip(_weights(moved))  # in the last block, which is always looked at
    assert surely_differ(base, open_folder(tmp_path / "moved", "other"))
