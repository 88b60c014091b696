"""Headers: what safetensors accepts is read alike; every damage has its code."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evomerge.checkpoint.header import HEADER_LIMIT, read_header
from evomerge.errors import CheckpointError
from tests.checkpoint.folders import raw_file

GOOD = {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def test_agrees_with_the_reference_reader(tmp_path):
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).bfloat16(),
        "c": torch.arange(4),
        "scalar": torch.tensor(2.0, dtype=torch.float16),
        "empty": torch.empty(0, 3),
    }
    path = tmp_path / "m.safetensors"
    save_file(tensors, str(path), metadata={"format": "pt"})
    headers = read_header(path)
    assert set(headers) == set(tensors)
    raw = path.read_bytes()
    with safe_open(str(path), "pt") as reference:
        for name, header in headers.items():
            expected = reference.get_tensor(name)
            assert header.shape == tuple(expected.shape)
            assert header.dtype == str(expected.dtype).removeprefix("torch.")
            expected_bytes = expected.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert raw[header.offset : header.offset + header.nbytes] == expected_bytes


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"PK\x03\x04" + b"\0" * 100, "E208"),
        (b"\x80\x02}q\x00X\x04\x00\x00\x00name" + b"\0" * 40, "E208"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345\n",
            r"E209.*12345 bytes expected",
        ),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "E210"),
        (b"\n <html lang=en>error</html>", "E210"),
        (b"", "E211.*empty file"),
        (b"1234567", "E211.*truncated file; it has 7 bytes"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08nothing known", "E214"),
        (struct.pack("<Q", HEADER_LIMIT + 1) + b"{" + b" " * 600, "E214.*too long"),
        (struct.pack("<Q", 1000) + b'{"x": 1', "E212.*header alone"),
    ],
)
def test_other_files(tmp_path, content, code):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=code):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "code"),
    [
        (GOOD, 15, "E212.*need"),
        (GOOD, 17, "E213.*1 bytes too many"),
        (b"{" + b"not json" + b"}", 0, "E214.*not JSON"),
        (b'{"x": {}, "x": {}}', 0, "E214.*stand twice"),
        (b"{" * 100_000, 0, "E214"),
        ({"x": 3}, 0, "E214.*object"),
        ({"x": {**GOOD["x"], "dtype": "F33"}}, 16, "E214.*unknown dtype"),
        ({"x": {**GOOD["x"], "shape": [2, -2]}}, 16, "E214.*counts"),
        ({"x": {**GOOD["x"], "shape": [2, True]}}, 16, "E214.*counts"),
        ({"x": {**GOOD["x"], "shape": [2**40, 2**40]}}, 16, "E214.*need"),
        ({"x": {**GOOD["x"], "data_offsets": [16, 0]}}, 16, "E214"),
        ({"x": {**GOOD["x"], "data_offsets": [0]}}, 16, "E214.*two counts"),
        ({"x": {**GOOD["x"], "data_offsets": [4, 20]}}, 20, "E214.*holes"),
        (GOOD | {"y": GOOD["x"]}, 16, "E214.*overlap"),
    ],
)
def test_damaged_headers(tmp_path, header, data, code):
    path = raw_file(tmp_path / "model.safetensors", header, b"\0" * data)
    with pytest.raises(CheckpointError, match=code):
        read_header(path)


def test_every_truncation_of_a_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(3, 5), "b": torch.randn(7)}, str(path))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"E21[1-4]"):
            read_header(path)


def test_unreadable_file(tmp_path):
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="E240"):
        read_header(tmp_path / "dangling.safetensors")


def test_metadata_is_no_tensor(tmp_path):
    header = {"__metadata__": {"format": "pt"}, **GOOD}
    path = raw_file(tmp_path / "m.safetensors", header, b"\0" * 16)
    assert list(read_header(path)) == ["x"]
    assert json.dumps(list(read_header(path)["x"].shape)) == "[2, 2]"
