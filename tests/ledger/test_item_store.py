"""Per-item results come back bit for bit, or a named fault does."""

from __future__ import annotations

import json
import os
import resource
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evomerge.errors import EnvironmentFault, LedgerDamaged
from evomerge.ledger.item_store import ItemReference, ItemStore, decode, encode
from tests.ledger.writer import Writer

SHAPES = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9)
FINITE = {"allow_nan": False, "allow_infinity": False}
ARRAYS = st.one_of(
    hnp.arrays(np.float64, SHAPES, elements=st.floats(width=64, **FINITE)),
    hnp.arrays(np.float64, SHAPES, elements=st.floats(width=32, **FINITE)),
    hnp.arrays(np.float64, SHAPES, elements=st.sampled_from([0.0, 1.0, -0.0])),
    hnp.arrays(np.float64, SHAPES, elements=st.sampled_from([0.0, 1.0])),
    hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, **FINITE)),
    hnp.arrays(np.int64, SHAPES),
    hnp.arrays(np.int32, SHAPES),
    hnp.arrays(np.uint8, SHAPES),
    hnp.arrays(np.bool_, SHAPES),
)


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4))
@settings(max_examples=200, deadline=None)
def test_arrays_come_back_bit_for_bit(arrays):
    found = decode(encode(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_records_are_small():
    zeros_and_ones = np.random.default_rng(0).integers(0, 2, 1000).astype(np.float64)
    assert len(encode({"acc": zeros_and_ones})) < 1000 + 60
    singles = np.random.default_rng(0).normal(size=1000).astype(np.float32).astype(np.float64)
    assert len(encode({"loss": singles})) < 4000 + 60
    assert len(encode({"loss": singles / 3})) < 8000 + 60


def test_many_records_of_two_evaluators(tmp_path):
    store = ItemStore(tmp_path / "items")
    rng = np.random.default_rng(0)
    written = []
    for number in range(20):
        arrays = {"acc": rng.integers(0, 2, 30).astype(float), "loss": rng.normal(size=30)}
        written.append((store.append(f"task{number % 2}", arrays), arrays))
    assert sorted(os.listdir(tmp_path / "items")) == ["task0.bin", "task1.bin"]
    for reference, arrays in written:
        found = ItemStore(tmp_path / "items").read(reference)
        assert all((found[name] == array).all() for name, array in arrays.items())


def test_equal_results_have_equal_digests(tmp_path):
    store = ItemStore(tmp_path)
    one, two = (store.append("task", {"acc": np.ones(5)}) for _ in range(2))
    assert one.digest == two.digest
    assert two.offset == one.length


def test_any_flipped_bit_is_found(tmp_path):
    store = ItemStore(tmp_path)
    reference = store.append("task", {"acc": np.array([0.0, 1.0, 1.0])})
    path = tmp_path / "task.bin"
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(LedgerDamaged, match=r"E502.*task\.bin.*SHA-256 does not fit"):
            store.read(reference)
    path.write_bytes(whole[:-1])
    with pytest.raises(LedgerDamaged, match=r"only \d+ bytes are there"):
        store.read(reference)
    path.unlink()
    with pytest.raises(LedgerDamaged, match="No such file"):
        store.read(reference)


@pytest.mark.parametrize(
    "change",
    [
        {"segment": "../secret.bin"},
        {"segment": "/etc/passwd"},
        {"segment": "a/b.bin"},
        {"segment": "task.txt"},
        {"offset": -1},
        {"length": -5},
    ],
    ids=str,
)
def test_references_that_lead_elsewhere_are_refused(tmp_path, change):
    (tmp_path / "secret.bin").write_bytes(b"secret")
    store = ItemStore(tmp_path / "items")
    reference = store.append("task", {"acc": np.ones(3)})
    with pytest.raises(LedgerDamaged, match=r"no reference to a segment|must not be negative"):
        store.read(replace(reference, **change))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x y", "-x"])
def test_names_that_are_no_plain_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no plain file name"):
        ItemStore(tmp_path).append(name, {"acc": np.ones(1)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="`acc` has a value that is not finite"):
        ItemStore(tmp_path).append("task", {"acc": np.array([1.0, bad])})


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has dtype object"):
        ItemStore(tmp_path).append("task", {"acc": np.array([{}, None], dtype=object)})


def start_writer(folder: Path, failpoints: str) -> Writer:
    def write(say):
        store = ItemStore(folder)
        for number in range(4):
            say(json.dumps(asdict(store.append("task", {"acc": np.full(50, number / 8)}))))

    return Writer(write, failpoints)


@pytest.mark.parametrize("point", ["before_append", "mid_append", "after_write", "after_fsync"])
def test_a_record_torn_by_sigkill_harms_no_other(tmp_path, point):
    references = []
    for failpoints in (f"item_store.{point}=kill@3", ""):
        writer = start_writer(tmp_path, failpoints)
        lines = writer.wait()
        assert writer.returncode == (-signal.SIGKILL if failpoints else 0)
        references += [ItemReference(**json.loads(line)) for line in lines]
    assert len(references) == 2 + 4
    values = [ItemStore(tmp_path).read(reference)["acc"][0] * 8 for reference in references]
    assert values == [0, 1, 0, 1, 2, 3]


def test_sigkill_before_the_segment_has_a_durable_name(tmp_path):
    writer = start_writer(tmp_path, "item_store.after_create=kill")
    writer.wait()
    assert writer.returncode == -signal.SIGKILL
    reference = ItemStore(tmp_path).append("task", {"acc": np.ones(2)})
    assert ItemStore(tmp_path).read(reference)["acc"].tolist() == [1.0, 1.0]


def test_a_full_disk_is_a_named_fault_and_leaves_nothing_behind(tmp_path):
    def fill(say):
        store = ItemStore(tmp_path)
        store.append("task", {"acc": np.ones(10)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        try:
            store.append("task", {"acc": np.linspace(0, 1, 100)})
        except EnvironmentFault as error:
            say(error)

    writer = Writer(fill)
    said = " ".join(writer.wait())
    assert writer.returncode == 0
    assert "E403" in said
    assert "task.bin" in said
    assert (tmp_path / "task.bin").stat().st_size == len(encode({"acc": np.ones(10)}))


def test_a_folder_in_the_way_is_a_named_fault(tmp_path):
    (tmp_path / "task.bin").mkdir()
    with pytest.raises(EnvironmentFault, match=r"E408.*task\.bin"):
        ItemStore(tmp_path).append("task", {"acc": np.ones(2)})
