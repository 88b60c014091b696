"""Peak memory of a slope, above what is loaded, and what it costs over an evaluation of the same items.

A random Llama of 57 M parameters with three experts, float32, one thread, four-choice items. Each way of
computing runs in a process of its own, which has read all its weights and built its requests before. Printed
is the growth of its largest resident memory, with a C library that gives back what is freed (without that,
holes in its heap count too):

- forward: the losses alone, without a graph;
- plain backward: every weight has a gradient, all activations are kept;
- slope: a worker's `slope` job (layers recomputed, gradients contracted as they come);
- fine-tuning: a step of AdamW on all weights, or on a LoRA adapter of rank 8 on all linear layers.

Goals: a quarter of plain backward's memory; four times the CPU seconds of an `evaluate` job.

    python -m benchmarks.slopes [--items 16] [--batch 8] [--repeats 2]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from benchmarks.evaluate import random_model, random_tokenizer, write_items
from benchmarks.vs_mergekit import EXPERTS, write_experts
from evomerge.recipe.recipe import CheckpointSource, MergedSource, single_source_recipe
from evomerge.run.job import Job, SlopeWork, WorkerSetup
from evomerge.run.worker import Worker

SHAPE = (640, 11, 10)
MIB = 1 << 20
METRIC = "bench.acc"
WAYS = ("forward", "plain backward", "slope", "fine-tuning", "fine-tuning, LoRA")
RANK = 8


def write_bed(root: Path, items: int) -> float:
    """Models and items; gives the number of parameters."""
    model = random_model(*SHAPE)
    model.save_pretrained(root / "base")
    random_tokenizer().save_pretrained(root / "base")
    write_experts(root)
    write_items(root, items)
    return float(model.num_parameters())


def status(field: str) -> int:
    """A field of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


class Bed:
    """A worker over the models in a folder."""

    def __init__(self, root: Path, items: int, batch: int) -> None:
        sources = {name: str(root / name) for name in ("base", *EXPERTS)}
        self.sources = {name: CheckpointSource(path) for name, path in sources.items()}
        self.items = tuple(range(items))
        setup = WorkerSetup(
            sources=sources, evaluators=(str(root / "declaration.yml"),), methods=("task_arithmetic",),
            trims=("tensor",), dtype="float32", storage="float32", device="cpu", threads=1, batch_size=batch,
            cache=str(root / "cache"), kernels="plain",
        )  # fmt: skip
        self.worker = Worker(setup)

    def run(self, kind: Any, weight: float, number: int = 0, items: tuple[int, ...] = ()) -> Any:
        """CPU seconds of a job on a merge of its own, and its result."""
        tables = {name: {"": 0.3 + 0.01 * number} for name in EXPERTS}
        merged = MergedSource("task_arithmetic", EXPERTS, "base", {"weight": tables})
        recipe = single_source_recipe({**self.sources, "m": merged}, "m", SHAPE[1], "float32")
        work = SlopeWork({METRIC: weight}, {METRIC: items or self.items})
        job = Job(f"{kind}-{number}", kind, recipe.to_json(), slope=work if kind == "slope" else None)
        began = time.process_time()
        result = self.worker.run(job)
        if result.status != "ok":
            raise SystemExit(f"{result.message}\n{result.traceback}")
        return time.process_time() - began, result

    def plain_backward(self) -> None:
        """Gradients of all weights, by torch alone."""
        self._backward(self.worker._loaded().live().model.requires_grad_(True))

    def fine_tuning(self, rank: int) -> None:
        """A step of AdamW by torch alone: on all weights, or with a rank on a LoRA adapter."""
        import torch

        model: Any = self.worker._loaded().live().model
        if rank:
            from peft import LoraConfig, get_peft_model

            adapted = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
            model = get_peft_model(model, adapted).base_model.model
        else:
            model.requires_grad_(True)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        self._backward(model)
        optimizer.step()

    def _backward(self, model: Any) -> None:
        import torch

        subject = self.worker._loaded()._subject(model, None)  # type: ignore[arg-type]
        evaluator: Any = self.worker._loaded().evaluators[0]
        for _, losses in evaluator.losses(subject, "search", self.items):
            torch.autograd.backward(losses.sum())


def grown(root: Path, way: str, items: int, batch: int) -> float:
    """Bytes by which the largest resident memory of this process grows."""
    bed = Bed(root, items, batch)
    bed.run("slope", 0.0, items=(0,))  # loads all there is
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the largest begins anew
    before = status("VmRSS")
    if way == "plain backward":
        bed.plain_backward()
    elif way.startswith("fine-tuning"):
        bed.fine_tuning(RANK if way.endswith("LoRA") else 0)
    else:
        bed.run("slope", float(way == "slope"))
    return status("VmHWM") - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--grown", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sizes = (chosen.items, chosen.batch)
    if chosen.grown:
        print(grown(Path(chosen.grown[0]), chosen.grown[1], *sizes))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parameters = write_bed(root, chosen.items)
        print(f"{parameters / 1e6:.1f} M parameters, {chosen.items} items, batches of {chosen.batch}")
        memory = {}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.slopes", "--grown", folder, way]
            command += ["--items", str(chosen.items), "--batch", str(chosen.batch)]
            given_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=given_back)
            memory[way] = float(done.stdout.split()[-1])
            print(f"{way:18}{memory[way] / MIB:7.0f} MiB above what is loaded")
        print(f"slope / plain backward: {memory['slope'] / memory['plain backward']:.2f} (goal 0.25)")
        bed = Bed(root, *sizes)
        bed.run("evaluate", 0.0)
        bed.run("slope", 1.0, items=(0,))
        rounds = range(1, chosen.repeats + 1)
        spent = [(bed.run("evaluate", 0.0, n)[0], bed.run("slope", 1.0, -n)[0]) for n in rounds]
        evaluation, slope = (min(times) for times in zip(*spent, strict=True))
        print(
            f"evaluation {evaluation:.2f} s, slope {slope:.2f} s of CPU: {slope / evaluation:.2f} (goal 4)"
        )


if __name__ == "__main__":
    main()
