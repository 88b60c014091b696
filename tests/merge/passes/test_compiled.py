"""Compiled passes: the same bits as the plain path, used only where they may be, never fatal."""

import logging
import math
import shutil
import subprocess
import sys

import pytest
import torch

from evomerge.checkpoint.reader import open_readers
from evomerge.merge.passes import compiled
from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.compiled import Kernels, mask_words
from evomerge.merge.passes.execute import execute
from evomerge.merge.passes.fused import is_bounded
from evomerge.merge.passes.kernels import ROW, FusedPass, KernelSpec
from evomerge.merge.passes.masks import keep_limit
from evomerge.merge.plan import PlanInput, TensorPlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import single_source_recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import CASES
from tests.merge.plan.test_plan import checkpoints

DTYPES = ("bfloat16", "float16", "float32")
RANKED = ("della_linear", "della_linear_mergekit", "della", "della_mergekit")
PLAIN_ONLY = [
    name
    for name, source in CASES.items()
    if source.options.get("along", "tensor") != "tensor" or METHODS[source.method].makes_whole
]
COMPILING = 1200
"""Seconds: compiling takes ten of processor time, and as long as it likes on a busy machine."""
HAS_COMPILER = shutil.which("g++") is not None


class Uncompiled(Kernels):
    """Runs the source of the compiled passes by torch's own operators."""

    def __init__(self, **arguments):
        super().__init__(mode="compiled", **arguments)
        self._works = True
        self.specs = []

    def _ahead(self, spec):
        self.specs.append(spec)
        call = FusedPass(spec)
        return lambda tensors: call(*tensors)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    family = write_family(tmp_path_factory.mktemp("family"))
    digests = {name: name for name in family}
    statistics = WeightStatistics(family, tmp_path_factory.mktemp("statistics"), digests)
    return family, statistics, open_readers(family)


def entries(engine, case, dtype):
    family, statistics, _ = engine
    sources = {**checkpoints(family), "merged": CASES[case]}
    return make_plan(single_source_recipe(sources, "merged", 2, dtype), family, statistics).tensors


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


class Stored:
    """A reader of tensors in memory."""

    def __init__(self, **tensors):
        self.tensors = tensors

    def read(self, name):
        return self.tensors[name]

    def delta(self, name):
        return None


def odd_values(size, seed):
    """Values of every scale, with zeros of both signs, subnormals and many that are equal."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(size, generator=generator)
    value[::7] *= 1e-3
    value[3::11] = 0.0
    value[5::13] = -0.0
    value[2::17] *= 1e-39
    value[4::19] = value[4::19].round()
    return value


def compare(entry, readers, kernels, out_dtype, ranks=None):
    plain, fused = (torch.full(entry.shape, 7.0, dtype=out_dtype) for _ in range(2))
    assert execute(entry, readers, plain, Scratch())
    scratch = Scratch(kernels=kernels, ranks=ranks)
    assert is_bounded(entry, readers, scratch)
    assert execute(entry, readers, fused, scratch)
    assert torch.equal(bits(plain), bits(fused))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_source_of_the_compiled_passes_gives_the_bits_of_the_plain_path(engine, case, dtype):
    kernels = Uncompiled()
    if case in PLAIN_ONLY:
        pytest.skip("has no compiled pass")
    for entry in entries(engine, case, dtype):
        compare(entry, engine[2], kernels, getattr(torch, dtype), engine[1].ranks)
    assert bool(kernels.specs) != (case in RANKED)


@pytest.mark.parametrize("case", RANKED)
def test_prepared_ranks_give_the_bits_of_sorting(engine, case):
    for entry in entries(engine, case, "float32"):
        sorted_, prepared = (torch.empty(entry.shape) for _ in range(2))
        assert execute(entry, engine[2], sorted_, Scratch())
        assert execute(entry, engine[2], prepared, Scratch(ranks=engine[1].ranks))
        assert torch.equal(bits(sorted_), bits(prepared))


def full_entry(size, storage, seed=0, election="before", divisor="weight"):
    """An entry that needs every operator there is, over values of every kind."""
    values = {name: odd_values(size, seed + i) for i, name in enumerate("abcd")}
    readers = {name: Stored(t=value.to(getattr(torch, storage))) for name, value in values.items()}
    inputs = tuple(
        PlanInput(name, "t", weight, threshold, ceiling, keep, rescale=1.7, key=11 * weight.__hash__())
        for name, weight, threshold, ceiling, keep in (
            ("b", 0.3, 0.01, 2.0, 0.5), ("c", -1.2, 0.0, math.inf, 0.9), ("d", 0.7, 0.02, 3.0, 1.0),
        )
    )  # fmt: skip
    entry = TensorPlan(
        "t", "embed", (size,), storage, ("a", "t"), inputs, election, divisor, 1.3, 1e-4, 0.9
    )
    return entry, readers


@pytest.mark.parametrize("election", ["before", "after"])
@pytest.mark.parametrize("divisor", ["none", "count", "weight"])
def test_bits_with_every_operator_at_once(election, divisor):
    for storage in DTYPES:
        entry, readers = full_entry(3 * ROW + 77, storage, election=election, divisor=divisor)
        compare(entry, readers, Uncompiled(), getattr(torch, storage))


@pytest.mark.timeout(COMPILING)
@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_what_the_compiler_makes_of_it_has_the_same_bits(tmp_path, monkeypatch):
    kernels = Kernels(tmp_path, "compiled")
    # Rounded to bfloat16, held in float32: the compiler must not drop the rounding.
    for size in (5 * ROW, 2 * ROW + 77, 33):
        entry, readers = full_entry(size, "bfloat16")
        compare(entry, readers, kernels, torch.float32)
    assert kernels.works
    assert len(list(tmp_path.glob("*.pt2"))) == 1
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("it lies there already"))
    again = Kernels(tmp_path, "compiled")
    compare(entry, readers, again, torch.float32)
    assert again.works


@pytest.mark.parametrize("probability", [1e-9, 0.001, 0.5, 0.999, 1.0])
def test_limits_of_signed_words_are_those_of_the_masks(probability):
    limit = mask_words(0, probability)[2]
    for u in (0, 1, keep_limit(probability) - 1, keep_limit(probability), 2**31 - 1):
        for last_bit in (0, 1):
            word = (2 * u + last_bit) ^ (1 << 31)
            signed = word - (1 << 32) if word >= 1 << 31 else word
            assert (signed <= limit) == (u < keep_limit(probability) or probability == 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_what_is_not_bounded_goes_the_way_that_looks(bad):
    entry, readers = full_entry(700, "float32")
    readers["c"].tensors["t"][13] = bad
    kernels = Uncompiled()
    scratch = Scratch(kernels=kernels)
    assert not is_bounded(entry, readers, scratch)
    execute(entry, readers, torch.empty(700), scratch)
    assert kernels.specs == []


def test_a_failing_compiler_costs_a_warning_and_nothing_else(tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("line one\nno such instruction")

    monkeypatch.setattr(compiled, "_compile", fail)
    monkeypatch.setattr(compiled, "_compiler", lambda: "g++")
    entry, readers = full_entry(700, "bfloat16")
    kernels = Kernels(tmp_path, "compiled")
    with caplog.at_level(logging.WARNING):
        compare(entry, readers, kernels, torch.bfloat16)
        compare(entry, readers, kernels, torch.bfloat16)
    assert [record.getMessage() for record in caplog.records] == [
        "compiling a merge pass failed, merging by the plain path: RuntimeError: no such instruction"
    ]


def test_without_a_compiler_the_plain_path(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "_compiler", lambda: None)
    with caplog.at_level(logging.INFO):
        assert not Kernels(tmp_path, "compiled").works
    assert "no C++ compiler" in caplog.text


def test_auto_compiles_what_pays(tmp_path, monkeypatch):
    made = []

    def record(spec, path, threads):
        made.append(spec)
        raise RuntimeError("enough")

    monkeypatch.setattr(compiled, "_compile", record)
    monkeypatch.setattr(compiled, "_compiler", lambda: "g++")
    monkeypatch.setattr(compiled, "SETTLED", 1500)
    entry, readers = full_entry(700, "bfloat16")
    out = torch.empty(700, dtype=torch.bfloat16)
    assert not Kernels(tmp_path, "auto", expected=1e9).works
    assert not Kernels(tmp_path, "plain", expected=1e12).works
    scratch = Scratch(kernels=Kernels(tmp_path, "auto", expected=1e12))
    for _ in range(2):
        execute(entry, readers, out, scratch)
    assert made == []
    execute(entry, readers, out, scratch)
    assert len(made) == 1


def test_another_process_that_compiles_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "SETTLED", 0)
    monkeypatch.setattr(compiled, "_compiler", lambda: "g++")
    kernels = Kernels(tmp_path, "auto", expected=1e12)
    entry, readers = full_entry(700, "bfloat16")
    spec = KernelSpec(("bfloat16",) * 3, "bfloat16", "bfloat16", "bfloat16", True, True, True, True,
                      "before", "weight", True, scales=True)  # fmt: skip
    lock = tmp_path / f"{compiled._name(spec, 1)}.lock"
    code = (
        f"import filelock, time; lock = filelock.FileLock({str(lock)!r}); lock.acquire(); "
        "print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        compare(entry, readers, kernels, torch.bfloat16)
        other.kill()
    assert kernels.works
    assert not list(tmp_path.glob("*.pt2"))


def test_on_a_device_every_kind_of_pass_is_compiled_however_many_there_are(monkeypatch):
    kinds = [
        KernelSpec(("float32",), "float32", "float32", "float32", trims=trims, caps=caps, scales=scales)
        for trims in (False, True) for caps in (False, True) for scales in (False, True)
    ]  # fmt: skip
    graphs, compiler = [], torch.compile

    def counted(graph, _):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(
        torch,
        "compile",
        lambda each, *, dynamic, options: compiler(each, dynamic=dynamic, backend=counted),
    )
    kernels = Kernels(mode="compiled")
    numbers = torch.tensor([0.5, 0.1, 2.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    torch.manual_seed(0)
    for number, spec in enumerate(kinds, 1):
        call, waited = kernels._jit(spec), kernels.seconds
        for rows in (3, 1, 5, 1):
            base, expert, found, expected = torch.randn(4, rows, ROW)
            call([base, expert, numbers, found])
            FusedPass(spec)(base, expert, numbers, expected)
            assert torch.equal(found, expected)
        assert len(graphs) == 2 * number, "one for a single row, one for all other numbers of them"
        assert kernels.seconds > waited


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_the_bits_are_those_of_the_cpu(dtype):
    entry, readers = full_entry(5 * ROW + 77, dtype)
    expected = torch.empty(entry.shape, dtype=getattr(torch, dtype))
    assert execute(entry, readers, expected, Scratch())
    for kernels in (None, Kernels(mode="compiled", device="cuda")):
        found = torch.empty(entry.shape, dtype=getattr(torch, dtype), device="cuda")
        assert execute(entry, readers, found, Scratch("cuda", kernels))
        assert torch.equal(bits(found.cpu()), bits(expected))
