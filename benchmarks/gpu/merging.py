"""Steps 1 to 3: the bits of merges, and what materialising a candidate takes beside a plain copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bed import EXPERTS, SHAPES, Bed, Family, candidate, copies, make_family
from benchmarks.gpu.report import Report
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader, open_readers
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.passes.compiled import Kernels
from evomerge.merge.passes.masks import draw
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import CheckpointSource, single_source_recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes.cases import CASES

COMPILED_CASES = ("task_arithmetic", "linear", "ties", "dare_ties", "dare_linear", "breadcrumbs", "sce")
TINY_CASES = ("task_arithmetic", "linear", "ties", "dare_linear", "della", "model_stock_rows")
BOUNDS = {"task_arithmetic": 1.3, "linear": 1.3, "ties": 1.6, "dare_ties": 1.8}
"""Of the time of a copy that moves the same bytes."""

PINNED_BOUND = 1.15


def correctness(bed: Bed, report: Report) -> None:
    """Step 1: live model = export, bitwise; = the CPU's within one rounding; masks equal the CPU's."""
    report.say(_masks(bed), masks_equal=True)
    family = write_family(bed.folder / "family", hidden_size=64, intermediate_size=520)
    readers = open_readers(dict(family))
    statistics = WeightStatistics(
        family, bed.folder / "family-statistics", {n: n for n in family}, readers
    )
    sources = {name: CheckpointSource(str(each.path)) for name, each in family.items()}
    lives = {
        "plain": LiveModel.load(family["base"], "bfloat16", bed.device, ranks=statistics.ranks),
        "resident": LiveModel.load(
            family["base"], "bfloat16", bed.device, placement="resident" if bed.device != "cpu" else "mapped",
            kernels=Kernels(mode="plain", device=bed.device), ranks=statistics.ranks,
        ),
    }  # fmt: skip
    if not bed.tiny:
        kernels = Kernels(bed.folder / "kernels", "compiled", device=bed.device)
        lives["compiled"] = LiveModel.load(
            family["base"], "bfloat16", bed.device, placement="pinned", kernels=kernels
        )
    cases = TINY_CASES if bed.tiny else tuple(CASES)
    different: dict[str, list[str]] = {path: [] for path in lives}
    beyond: list[str] = []
    counts = dict.fromkeys(lives, 0)
    # What is compiled takes seconds a case: the plain path first, of all.
    for path, live in lives.items():
        for case in COMPILED_CASES if path == "compiled" else cases:
            recipe = single_source_recipe({**sources, "merged": CASES[case]}, "merged", 2, "bfloat16")
            plan = make_plan(recipe, family, statistics)
            exported = _export(plan, readers, bed.folder / "exports" / case)
            live.materialize(plan, readers)
            counts[path] += 1
            worst = _worst(live, exported)
            if worst:
                different[path].append(case)
            if worst > 1:
                beyond.append(f"{case} ({path})")
        if path == "compiled" and not kernels.works:
            report.say("compiling failed: the plain path was taken (see the log)", compiled=False)
        told = f"; not equal: {', '.join(different[path])}" if different[path] else ""
        report.say(
            f"{path}: {counts[path] - len(different[path])} of {counts[path]} merges on the device are the "
            f"CPU's export, bitwise{told}",
            **{f"{path}_cases": counts[path], f"{path}_different": different[path]},
        )  # fmt: skip
    report.say(
        f"beyond one rounding of bfloat16: {', '.join(beyond) or 'none'}", beyond_one_rounding=beyond
    )


def _masks(bed: Bed) -> str:
    """Random numbers of some keys and places on the device against the CPU's."""
    size = 1 << (14 if bed.tiny else 22)
    keys = (0, 1, 0x9E3779B97F4A7C15, 2**64 - 1)
    for key in keys:
        for start in (0, size, 2**31 - size // 2, 2**32 + 512):
            found = []
            for device in ("cpu", bed.device):
                counter = torch.arange(size, dtype=torch.int32, device=device)
                bits, spare = torch.empty_like(counter), torch.empty_like(counter)
                draw(key, start, counter, bits, spare)
                found.append(bits.cpu())
            if not torch.equal(*found):
                raise AssertionError(f"random numbers differ: key {key:#x}, element {start}")
    return f"random numbers of masks: {len(keys)} keys at 4 places, {size} each: bit-equal"


def _export(plan: MergePlan, readers: Mapping[str, Any], folder: Path) -> TensorReader:
    if not folder.exists():
        folder.mkdir(parents=True)
        write_checkpoint(plan, readers, folder)
        config = next(iter(readers.values())).folder.path / "config.json"
        (folder / "config.json").write_text(config.read_text())
    return TensorReader(open_folder(folder, "exported"))


def _worst(live: LiveModel, exported: TensorReader) -> int:
    """By how many roundings of bfloat16 the live model is off where it is most; 0 if all bits are equal."""
    worst = 0
    state = live.model.state_dict()
    for binding in live.bindings:
        found = binding.view(state[binding.parameter]).cpu().contiguous().view(torch.int16).int()
        wanted = exported.read(binding.tensor).view(torch.int16).int()
        # As integers, floats of one sign stand in their order; of two signs they meet at zero.
        ordered = [torch.where(each < 0, -(each & 0x7FFF), each) for each in (found, wanted)]
        if not torch.equal(found, wanted):
            worst = max(worst, 1, int((ordered[0] - ordered[1]).abs().max()))
    return worst


def materialise(bed: Bed, report: Report) -> None:
    """Step 2: milliseconds to write a candidate, experts resident, over a device copy of the same bytes."""
    for shape in ("1.5 B", "8 B"):
        if bed.device != "cpu":
            needed = 4.3 * 2 * {"1.5 B": 1.55e9, "8 B": 8.03e9}[shape]
            free = torch.cuda.mem_get_info()[0]
            if needed > free:
                report.say(f"{shape}: left out, needs {needed / 1e9:.0f} GB of {free / 1e9:.0f} free")
                continue
        family = make_family(bed.folder / f"held-{shape.split()[0]}", bed.shape(shape), bed.device)
        _materialise(bed, report, shape, family)
        del family
        bed.clear()


def _materialise(bed: Bed, report: Report, shape: str, family: Family) -> None:
    config = SHAPES[bed.shape(shape)]()
    kernels = Kernels(bed.folder / "kernels", "plain" if bed.tiny else "compiled", device=bed.device)
    live = LiveModel.load(family.folders["base"], "bfloat16", bed.device, kernels=kernels,
                          placement="resident" if bed.device != "cpu" else "mapped")  # fmt: skip
    sources = {name: CheckpointSource(str(each.path)) for name, each in family.folders.items()}
    # A merge reads base and experts and writes one model: what a copy of half of these moves.
    moved = 2 * family.elements * (len(EXPERTS) + 2) // 2
    copy = _copy_seconds(bed, moved)
    report.say(
        f"{shape}: {family.elements / 1e6:.1f} M parameters, base and {len(EXPERTS)} experts; a copy of "
        f"the same bytes {1e3 * copy:.2f} ms",
        **{f"{shape} copy_ms": 1e3 * copy},
    )  # fmt: skip
    for method, bound in BOUNDS.items():
        plans = [
            make_plan(candidate(sources, method, n, config), family.folders, family.statistics)
            for n in range(2)
        ]
        began = kernels.seconds
        first = bed.seconds(lambda plans=plans: live.materialize(plans[1], family.readers))
        live.materialize(plans[0], family.readers)
        took = bed.least(lambda n, plans=plans: live.materialize(plans[1 - n % 2], family.readers), 4)
        report.say(
            f"{shape} {method}: {1e3 * took:.2f} ms, / copy {report.asked(took / copy, bound)}; first "
            f"{first:.1f} s, of which {kernels.seconds - began:.1f} s compiling",
            **{f"{shape} {method}": took / copy, f"{shape} {method} ms": 1e3 * took},
        )  # fmt: skip
    if not kernels.works and not bed.tiny:
        report.say(f"{shape}: compiling failed, these are figures of the plain path", compiled=False)


def _copy_seconds(bed: Bed, moved: int) -> float:
    """Wall time of copying so many bytes on the device."""
    piece = torch.empty(min(moved, 2**20 if bed.tiny else 2**30), dtype=torch.uint8, device=bed.device)
    target = torch.empty_like(piece)
    return bed.least(lambda _: copies(piece, target, moved), 3)


def from_host(bed: Bed, report: Report) -> None:
    """Step 3: seconds to write a candidate from the host over a plain copy of base and experts from there."""
    root = bed.written
    folders = {name: open_folder(root / name, name) for name in ("base", *EXPERTS)}
    readers = open_readers(dict(folders))
    statistics = WeightStatistics(folders, None, {n: n for n in folders}, readers)
    sources = {name: CheckpointSource(str(root / name)) for name in folders}
    config = SHAPES[bed.shape("1.5 B")]()
    total = sum(h.nbytes for each in folders.values() for h in each.tensors.values())
    report.say(f"base and experts: {total / 1e9:.2f} GB in files", bytes=total)
    pinned = bed.device != "cpu"
    piece = torch.empty(2**28 if pinned else 2**20, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty_like(piece, device=bed.device)

    def plain_copy(placement: str) -> None:
        if placement == "pinned":
            copies(piece, target, total)
            return
        for reader in readers.values():
            for name in reader.folder.tensors:
                reader.read(name).to(bed.device, copy=True)

    for placement in ("pinned", "mapped"):
        kernels = Kernels(
            bed.folder / "kernels", "plain" if bed.tiny else "compiled", device=bed.device
        )
        live = LiveModel.load(
            folders["base"], "bfloat16", bed.device, kernels=kernels, placement=placement
        )
        plans = [
            make_plan(candidate(sources, "task_arithmetic", n, config), folders, statistics) for n in range(2)
        ]  # fmt: skip
        live.materialize(plans[1], readers)
        took = bed.least(lambda n, plans=plans, live=live: live.materialize(plans[n % 2], readers), 2)
        plain = bed.least(lambda _, placement=placement: plain_copy(placement), 2)
        report.say(
            f"{placement}: {took:.3f} s, a plain copy {plain:.3f} s ({total / plain / 1e9:.1f} GB/s): "
            f"{report.asked(took / plain, PINNED_BOUND)}",
            **{placement: took / plain, f"{placement}_copy_gb_s": total / plain / 1e9},
        )  # fmt: skip
        del live
        bed.clear()
