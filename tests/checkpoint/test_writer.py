"""Writing: what safetensors and transformers read back is what was given."""

import json

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.folder import INDEX_FILE
from evomerge.checkpoint.header import read_header
from evomerge.checkpoint.writer import CheckpointWriter, TensorSpec, plan_shards
from tests.durability import ENDS, Disk, content

TENSORS = {
    "a": torch.randn(7, 3).bfloat16(),
    "b": torch.randn(5),
    "scalar": torch.tensor(3.5, dtype=torch.float16),
    "empty": torch.empty(0, 4),
    "c": torch.arange(6).view(2, 3),
}
SPECS = [TensorSpec(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in TENSORS.items()]


def write(folder, shard_bytes):
    writer = CheckpointWriter(folder, SPECS, shard_bytes)
    for name, tensor in TENSORS.items():
        writer.write(name, tensor)
    writer.close()
    return writer.files


@pytest.mark.parametrize("shard_bytes", [1, 50, 10_000])
def test_round_trip(tmp_path, shard_bytes):
    files = write(tmp_path, shard_bytes)
    found = {}
    for file in files:
        read_header(tmp_path / file)
        found |= load_file(str(tmp_path / file))
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert (tmp_path / INDEX_FILE).exists() == (len(files) > 1)
    if len(files) > 1:
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        assert set(index["weight_map"]) == set(TENSORS)
        assert index["metadata"]["total_size"] == sum(spec.nbytes for spec in SPECS)


def test_shards_keep_order_and_limit():
    shards = plan_shards(SPECS, 50)
    assert [spec for shard in shards for spec in shard] == SPECS
    assert all(len(shard) == 1 or sum(s.nbytes for s in shard) <= 50 for shard in shards)


def test_order_and_completeness_are_held(tmp_path):
    writer = CheckpointWriter(tmp_path, SPECS, 1000)
    with pytest.raises(ValueError, match=r"expected .*'a'"):
        writer.write("b", TENSORS["b"])
    writer = CheckpointWriter(tmp_path, SPECS, 1000)
    writer.write("a", TENSORS["a"])
    with pytest.raises(ValueError, match="4 tensors were not written"):
        writer.close()
    writer.abandon()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("shard_bytes", [50, 10_000])
def test_what_is_closed_is_on_the_disk(tmp_path, shard_bytes, end):
    with Disk(tmp_path) as disk:
        write(tmp_path, shard_bytes)
        assert disk.left(end) == content(tmp_path)
