"""Placement of experts: what fits is decided by numbers alone; where they lie changes no bit."""

import pytest
import torch

from evomerge.checkpoint.reader import open_readers
from evomerge.errors import EnvironmentFault
from evomerge.merge.materialize import LiveModel
from evomerge.merge.passes import placement
from evomerge.merge.passes.placement import Weights, choose_placement, free_host_bytes, place_experts
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import single_source_recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import CASES
from tests.merge.plan.test_plan import checkpoints

GB = 10**9
PLACEMENTS = ("mapped", "pinned", "resident")


@pytest.mark.parametrize(
    ("device", "host", "expected"),
    [
        (80 * GB, 500 * GB, "resident"),
        (40 * GB, 500 * GB, "resident"),
        (39 * GB, 500 * GB, "pinned"),
        (0, 40 * GB, "pinned"),
        (-3 * GB, 39 * GB, "mapped"),
        (10 * GB, 0, "mapped"),
    ],
)
def test_auto_takes_the_fastest_that_fits(device, host, expected):
    assert choose_placement("auto", "cuda:0", 20 * GB, device, host) == expected


@pytest.mark.parametrize("wanted", ["auto", *PLACEMENTS])
def test_a_processor_reads_the_mapped_files(wanted):
    assert choose_placement(wanted, "cpu", 20 * GB, 0, 0) == "mapped"
    assert place_experts(wanted, ["cpu"], 20 * GB, GB) == "mapped"


def test_what_is_wanted_is_taken_up_to_the_last_byte():
    assert choose_placement("resident", "cuda", 20 * GB, 20 * GB, 0) == "resident"
    assert choose_placement("pinned", "cuda", 20 * GB, 0, 20 * GB) == "pinned"
    assert choose_placement("mapped", "cuda", 20 * GB, 0, 0) == "mapped"
    with pytest.raises(EnvironmentFault, match=r"E402.*need 20.0 GB, 19.0 GB are free"):
        choose_placement("resident", "cuda", 20 * GB, 19 * GB, 900 * GB)
    with pytest.raises(EnvironmentFault, match=r"E402.*as `pinned`"):
        choose_placement("pinned", "cuda", 20 * GB, 900 * GB, 19 * GB)


def test_free_memory_is_what_the_kernel_says(tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable:   64 kB\n")
    assert free_host_bytes(file) == 65536
    assert free_host_bytes(tmp_path / "none") == 0
    assert 0 < free_host_bytes() < 1 << 60


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


def test_mapped_tensors_are_read_in_place_and_resident_ones_copied_once(family):
    reader = open_readers(family)["a"]
    name = "model.norm.weight"
    assert Weights().read(reader, name).data_ptr() == reader.read(name).data_ptr()
    weights = Weights("cpu", "resident")
    found = weights.read(reader, name)
    assert torch.equal(found, reader.read(name).view(-1))
    assert found.data_ptr() != reader.read(name).data_ptr()
    assert weights.read(reader, name) is found
    weights.forget()
    assert weights.read(reader, name) is not found


class Runtime:
    """The calls of CUDA's runtime that lock pages, and what they are told to answer."""

    def __init__(self, code=0):
        self.code, self.locked = code, []

    def cudart(self):
        return self

    def synchronize(self, device):
        pass

    def cudaHostRegister(self, where, size, flags):  # noqa: N802
        assert flags == 9, "read-only, for all devices"
        self.locked.append(where)
        return self.code

    def cudaHostUnregister(self, where):  # noqa: N802
        self.locked.remove(where)


def test_only_files_are_locked_each_once_and_until_they_are_forgotten(family, monkeypatch):
    runtime = Runtime()
    monkeypatch.setattr(placement, "_CUDA", runtime)
    reader, weights, other = open_readers(family)["a"], Weights(), Weights()
    weights._copies = object()
    names = list(family["a"].tensors)
    for name in names:
        weights._pin(reader.read(name))
        other._pin(reader.read(name))
    assert len(runtime.locked) == 1, "one file, also where two devices read it"
    weights._pin(torch.ones(64))
    assert len(runtime.locked) == 1, "what was computed may go, and its address may become another's"
    weights.forget()
    assert runtime.locked == []
    assert placement._LOCKED == {}


def test_a_file_that_cannot_be_locked_is_said_once(family, monkeypatch, caplog):
    runtime = Runtime(code=801)
    monkeypatch.setattr(placement, "_CUDA", runtime)
    reader, weights = open_readers(family)["a"], Weights()
    for name in family["a"].tensors:
        weights._pin(reader.read(name))
    assert len(runtime.locked) == 1
    assert placement._LOCKED == {}
    assert [record.message for record in caplog.records] == [
        "the device cannot lock a file's pages (CUDA error 801): copied as mapped"
    ]


def merged(family, device, placement, case):
    live = LiveModel.load(family["base"], "bfloat16", device, placement=placement)
    sources = {**checkpoints(family), "merged": CASES[case]}
    recipe = single_source_recipe(sources, "merged", 2, "bfloat16")
    live.materialize(make_plan(recipe, family, WeightStatistics(family)), open_readers(family))
    return {name: value.cpu() for name, value in live.model.state_dict().items()}


def test_resident_experts_give_the_bits_of_mapped_ones(family):
    mapped, resident = (merged(family, "cpu", place, "ties") for place in ("mapped", "resident"))
    assert all(torch.equal(mapped[name], resident[name]) for name in mapped)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_on_a_gpu_every_placement_gives_the_bits_of_the_cpu(family, placement):
    for case in ("task_arithmetic", "ties", "dare_ties"):
        expected = merged(family, "cpu", "mapped", case)
        found = merged(family, "cuda", placement, case)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
