"""Proportional resident memory (PSS) of 1, 2 and 4 workers of one node: base, three experts, live models.

Random weights in the shape of SmolLM2-135M, bfloat16, in a temporary folder. Each worker is a process
that maps the checkpoints and merges two candidates into its own live model. Stated apart: a process that
has only imported what a worker imports.

    python benchmarks/memory.py [--workers 1 2 4]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from materialise import EXPERTS, source, write_models

MIB = 1 << 20


def pss(process: int) -> int:
    """Proportional resident bytes of a process."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Pss in smaps_rollup")


def work(folder: Path) -> None:
    """What one worker does; an empty folder is the constant alone."""
    import torch

    from evomerge.checkpoint.folder import open_folder
    from evomerge.checkpoint.reader import open_readers
    from evomerge.merge.materialize import LiveModel
    from evomerge.merge.passes.compiled import Kernels
    from evomerge.merge.plan import make_plan
    from evomerge.merge.statistics.weights import WeightStatistics
    from evomerge.recipe.recipe import CheckpointSource, single_source_recipe

    torch.set_num_threads(1)
    kept = []
    if (folder / "base").exists():
        family = {name: open_folder(folder / name, name) for name in ("base", *EXPERTS)}
        readers = open_readers(family)
        live = LiveModel.load(family["base"], kernels=Kernels(mode="plain"))
        sources = {name: CheckpointSource(str(f.path)) for name, f in family.items()}
        for shift in range(2):
            merged = {**sources, "merged": source("task_arithmetic", shift)}
            recipe = single_source_recipe(merged, "merged", family["base"].layers, "bfloat16")
            live.materialize(make_plan(recipe, family, WeightStatistics(family)), readers)
        kept = [live, readers]
    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        tiny = LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
        kept = [LlamaForCausalLM(tiny)]
    print(len(kept), flush=True)
    sys.stdin.read()


def measure(folder: Path, workers: int) -> int:
    """Bytes of `workers` processes together, while all of them hold their models."""
    command = [sys.executable, __file__, "--work", str(folder)]
    running = []
    try:
        for _ in range(workers):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            running.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        return sum(pss(process.pid) for process in running)
    finally:
        for process in running:
            process.communicate()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work)
        return
    with tempfile.TemporaryDirectory() as name:
        family = write_models(Path(name), 30)
        model = 2 * sum(header.elements for header in family["base"].tensors.values())
        print(f"one model {model / MIB:.0f} MiB; base, {len(EXPERTS)} experts, live models")
        print("workers   PSS MiB   constant   without it   models held   ratio")
        for workers in arguments.workers:
            constant = measure(Path(name) / "none", workers)
            total = measure(Path(name), workers)
            held = (len(EXPERTS) + 1 + workers) * model
            net = total - constant
            print(
                f"{workers:>7}{total / MIB:>10.0f}{constant / MIB:>11.0f}{net / MIB:>13.0f}"
                f"{held / MIB:>14.0f}{net / held:>8.2f}"
            )


if __name__ == "__main__":
    main()
