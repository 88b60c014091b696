# ruff: noqa: B023, E402
"""CPU seconds to merge a candidate into the live model, against a plain copy that moves the same bytes.

Random weights in the shape of SmolLM2-135M (30 layers, hidden 576, vocabulary 49152, tied), a base and
three experts in bfloat16, written to a temporary folder and mapped. One thread, CPU seconds, interleaved
repeats, the least of each: what others do on the machine only adds. Ratios are what counts.

    python benchmarks/materialise.py [--repeats 3] [--methods linear ties ...] [--no-compiled] [--export]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.passes.compiled import Kernels
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import CheckpointSource, MergedSource, single_source_recipe

EXPERTS = ("a", "b", "c")


def write_models(folder: Path, layers: int) -> dict[str, CheckpointFolder]:
    """A base and three experts near it, in bfloat16."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    model.save_pretrained(folder / "base")
    start = {key: value.clone() for key, value in model.state_dict().items()}
    for name in EXPERTS:
        with torch.no_grad():
            for key, parameter in model.state_dict().items():
                noise = torch.empty_like(parameter).uniform_(-0.004, 0.004, generator=generator)
                parameter.copy_(start[key] + noise)
        model.save_pretrained(folder / name)
    return {name: open_folder(folder / name, name) for name in ("base", *EXPERTS)}


def source(method: str, shift: float, layer: bool = False) -> MergedSource:
    """A merge with every coefficient of the method; `shift` makes another candidate of it."""
    chosen = METHODS[method]
    inputs = EXPERTS[: chosen.inputs[1] or 3]
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for coefficient in chosen.coefficients:
        if coefficient.may_be_left_out:
            continue
        middle = 0.5 * (coefficient.low + coefficient.high)
        for index, name in enumerate(inputs if coefficient.per_input else ("*",)):
            value = round(middle * (1 + 0.05 * index) + 0.01 * shift, 3)
            table = {"": value}
            if layer:
                table["layers.7"] = round(value + 0.003, 3)
            tables.setdefault(coefficient.name, {})[name] = table
    base = "base" if chosen.uses_base() else None
    return MergedSource(method, inputs, base, tables, {}, 7)


class Bench:
    """Interleaved measurements by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def measure(self, name: str, work: Callable[[], object]) -> None:
        """Do it once and keep the CPU seconds."""
        started = time.process_time()
        work()
        self.seconds.setdefault(name, []).append(time.process_time() - started)

    def least(self, name: str) -> float:
        """Seconds of what was measured under a name."""
        return min(self.seconds[name])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--kernels", type=Path, help="folder of compiled passes to keep")
    parser.add_argument("--no-compiled", action="store_true")
    parser.add_argument("--export", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(arguments, Path(folder))


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    family = write_models(folder, arguments.layers)
    readers = open_readers(family)
    digests = {name: name for name in family}
    weights = WeightStatistics(family, folder / "statistics", digests, readers)
    checkpoints = {name: CheckpointSource(str(f.path)) for name, f in family.items()}
    elements = sum(header.elements for header in family["base"].tensors.values())

    def plan(method: str, shift: float, layer: bool = False) -> MergePlan:
        sources = {**checkpoints, "merged": source(method, shift, layer)}
        recipe = single_source_recipe(sources, "merged", arguments.layers, "bfloat16")
        return make_plan(recipe, family, weights)

    bench = Bench()
    kernels = Kernels(arguments.kernels or folder / "kernels", "compiled")
    lives = {
        "plain": LiveModel.load(family["base"], kernels=Kernels(mode="plain"), ranks=weights.ranks)
    }
    if not arguments.no_compiled:
        lives["compiled"] = LiveModel.load(family["base"], kernels=kernels, ranks=weights.ranks)
    # A merge of three experts reads four models and writes one: what a copy of 2.5 models moves.
    origin = torch.ones(int(2.5 * elements), dtype=torch.bfloat16)
    copied = torch.empty_like(origin)
    copied.copy_(origin)
    for method in arguments.methods:
        before = kernels.seconds
        plans = [plan(method, shift) for shift in range(2)]
        for live in lives.values():
            for one in plans:
                live.materialize(one, readers)
        compiling = kernels.seconds - before
        for index in range(arguments.repeats):
            bench.measure("copy", lambda: copied.copy_(origin))
            for path, live in lives.items():
                one = plans[index % 2]
                bench.measure(
                    f"{method} {path}", lambda live=live, one=one: live.materialize(one, readers)
                )
        print(f"{method}: compiling took {compiling:.0f} s of wall time", flush=True)
        if method == "task_arithmetic" and arguments.export:
            for index in range(arguments.repeats):
                out = folder / f"out{index}"
                out.mkdir()
                bench.measure("read and write", lambda index=index: raw_export(family, folder, index))
                bench.measure(
                    "export", lambda out=out: write_checkpoint(plans[0], readers, out, kernels=kernels)
                )
                bench.measure("export plain", lambda out=out: write_checkpoint(plans[0], readers, out))
    first = arguments.methods[0]
    partial = plan(first, 0, layer=True), plan(first, 0)
    for path, live in lives.items():
        live.materialize(partial[1], readers)
        for one in (partial[0], partial[1]) * 2:
            bench.measure(
                f"{first}, one layer {path}", lambda live=live, one=one: live.materialize(one, readers)
            )
    report(bench, list(lives), elements)


def raw_export(family: dict[str, CheckpointFolder], folder: Path, index: int) -> None:
    """Read what an export of a base and three experts reads, write what it writes."""
    for name in ("base", *EXPERTS):
        for file in family[name].path.glob("*.safetensors"):
            data = file.read_bytes()
    with (folder / f"raw{index}").open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def report(bench: Bench, paths: list[str], elements: int) -> None:
    """Print the least times and their ratios."""
    copy = bench.least("copy")
    print(f"\n{elements / 1e6:.1f} M parameters, copy of the same bytes {1e3 * copy:.1f} ms")
    linear = {
        path: bench.least(f"task_arithmetic {path}")
        for path in paths
        if f"task_arithmetic {path}" in bench.seconds
    }
    names = [
        n.removesuffix(" plain") for n in bench.seconds if n.endswith(" plain") and n[:6] != "export"
    ]
    print(f"{'':<28}" + "".join(f"{path + ' ms':>14}{'/ copy':>9}{'/ linear':>9}" for path in paths))
    for name in names:
        row = f"{name:<28}"
        for path in paths:
            if f"{name} {path}" in bench.seconds:
                found = bench.least(f"{name} {path}")
                over = f"{found / linear[path]:.2f}" if path in linear else ""
                row += f"{1e3 * found:>14.1f}{found / copy:>9.2f}{over:>9}"
        print(row)
    if "read and write" in bench.seconds:
        raw, export = bench.least("read and write"), bench.least("export")
        plain = bench.least("export plain")
        print(f"export {1e3 * export:.0f} ms (plain {1e3 * plain:.0f}), "
              f"reading and writing {1e3 * raw:.0f} ms:"
              f" {export / raw:.2f} (plain {plain / raw:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
