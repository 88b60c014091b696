"""Peak memory of a slope, above what is loaded, and what it costs over an evaluation of the same items.

A random Llama of 57 M parameters with three experts, float32, one thread, four-choice items. Each way of
computing runs in a process of its own, which has read all its weights and built its requests before. Printed
is the growth of its largest resident memory, with a C library that gives back what is freed (without that,
holes in its heap count too):

- forward: the losses alone, without a graph;
- plain backward: every weight has a gradient, all activations are kept;
- slope: a worker's `slope` job (layers recomputed, gradients contracted as they come);
- fine-tuning: a step of AdamW on all weights, or on a LoRA adapter of rank 8 on all linear layers.

Goals: a quarter of plain backward's memory; four times the CPU seconds of an `evaluate` job. With a campaign
file its models, its first evaluator's search items and its dtype are measured instead, without fine-tuning,
with genes for each matrix and each row (goal: 1.1 times with rows what it costs with matrices).

    python -m benchmarks.slopes [--items 16] [--batch 8] [--repeats 2] [--campaign FILE]
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from benchmarks.evaluate import random_model, random_tokenizer, write_items
from benchmarks.vs_mergekit import EXPERTS, write_experts
from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.checkpoint.folder import open_folder
from evomerge.recipe.recipe import CheckpointSource, MergedSource, single_source_recipe
from evomerge.run.job import Job, JobResult, SlopeWork, WorkerSetup
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup

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


@dataclass(frozen=True)
class Bed:
    """A worker over models, and how a merge of theirs is stated.

    Attributes:
        sources: base and experts, by name.
        metric: of the evaluator whose items are run.
        items: their numbers.
    """

    worker: Worker
    sources: Mapping[str, CheckpointSource]
    layers: int
    dtype: str
    metric: str
    items: tuple[int, ...]

    def run(
        self, kind: Any, weight: float, number: int = 0, items: tuple[int, ...] = ()
    ) -> tuple[float, JobResult]:
        """CPU seconds of a job on a merge of its own, and its result."""
        experts = tuple(name for name in self.sources if name != "base")
        tables = {name: {"": 0.3 + 0.01 * number} for name in experts}
        merged = MergedSource("task_arithmetic", experts, "base", {"weight": tables})
        recipe = single_source_recipe({**self.sources, "m": merged}, "m", self.layers, self.dtype)
        work = SlopeWork({self.metric: weight}, {self.metric: items or self.items})
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


def random_bed(root: Path, items: int, batch: int) -> Bed:
    """A bed over the models that `write_bed` wrote."""
    sources = {name: str(root / name) for name in ("base", *EXPERTS)}
    setup = WorkerSetup(
        sources=sources, evaluators=(str(root / "declaration.yml"),), methods=("task_arithmetic",),
        trims=("tensor",), dtype="float32", storage="float32", device="cpu", threads=1, batch_size=batch,
        cache=str(root / "cache"), kernels="plain",
    )  # fmt: skip
    named = {name: CheckpointSource(path) for name, path in sources.items()}
    return Bed(Worker(setup), named, SHAPE[1], "float32", METRIC, tuple(range(items)))


def campaign_bed(file: Path, root: Path, items: int, batch: int, field: str) -> Bed:
    """A bed over a campaign's models and first evaluator, with the places of a field: `tensor` or `row`."""
    campaign = load_campaign(file)
    report = check_campaign(campaign)
    report.raise_problems()
    setup = worker_setup(campaign, report.paths, report.storage, root / "cache", allow_task_code=False)
    setup = replace(setup, by_tensor=True, by_row=field == "row", kernels="plain", batch_size=batch)
    named = {name: CheckpointSource(path) for name, path in report.paths.items()}
    metric = campaign.objectives[0].metric
    setup = replace(setup, methods=("task_arithmetic",), evaluators=setup.evaluators[:1])
    layers = open_folder(report.paths["base"], "base").layers
    return Bed(Worker(setup), named, layers, report.storage, metric, tuple(range(items)))


def grown(bed: Bed, way: str) -> float:
    """Bytes by which the largest resident memory of this process grows."""
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


def measure(folder: Path, options: list[str], ways: Sequence[str]) -> dict[str, float]:
    """Bytes each way grows a process of its own by."""
    memory = {}
    for way in ways:
        command = [sys.executable, "-m", "benchmarks.slopes", "--grown", str(folder), way, *options]
        given_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=given_back)
        memory[way] = float(done.stdout.split()[-1])
        print(f"{way:18}{memory[way] / MIB:7.0f} MiB above what is loaded")
    return memory


def cpu_seconds(bed: Bed, repeats: int) -> tuple[float, float]:
    """Of an evaluation of all of the evaluator's items, per item of the bed, and of a slope of those."""
    bed.run("evaluate", 0.0)
    bed.run("slope", 1.0, items=(0,))
    spent = []
    for number in range(1, repeats + 1):
        evaluation, result = bed.run("evaluate", 0.0, number)
        share = len(bed.items) / len(result.items[bed.metric])
        spent.append((share * evaluation, bed.run("slope", 1.0, -number)[0]))
    first, second = (min(times) for times in zip(*spent, strict=True))
    return first, second


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--campaign", type=Path, help="measure its models instead of random ones")
    parser.add_argument("--fields", nargs="+", choices=("tensor", "row"), default=["tensor", "row"])
    parser.add_argument("--grown", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(chosen.grown[0] if chosen.grown else made)

        def bed(field: str) -> Bed:
            if chosen.campaign is None:
                return random_bed(root, chosen.items, chosen.batch)
            return campaign_bed(chosen.campaign, root, chosen.items, chosen.batch, field)

        if chosen.grown:
            print(grown(bed(chosen.fields[0]), chosen.grown[1]))
            return
        options = ["--items", str(chosen.items), "--batch", str(chosen.batch)]
        fields = chosen.fields
        if chosen.campaign is None:
            fields, parameters = ["tensor"], write_bed(root, chosen.items)
            print(
                f"{parameters / 1e6:.1f} M parameters, {chosen.items} items, batches of {chosen.batch}"
            )
        else:
            options += ["--campaign", str(chosen.campaign.resolve())]
        costs = {}
        for field in fields:
            print(f"genes for each {field}:" if chosen.campaign else "one gene for each expert:")
            ways = WAYS if chosen.campaign is None else WAYS[:3]
            memory = measure(root, [*options, "--fields", field], ways)
            print(
                f"slope / plain backward: {memory['slope'] / memory['plain backward']:.2f} (goal 0.25)"
            )
            evaluation, slope = cpu_seconds(bed(field), chosen.repeats)
            costs[field] = slope
            print(f"CPU: evaluation {evaluation:.2f} s, slope {slope:.2f} s:", end=" ")
            print(f"{slope / evaluation:.2f} (goal 4)")
        if len(costs) == 2:
            print(f"slope, rows / matrices: {costs['row'] / costs['tensor']:.2f} (goal 1.1)")


if __name__ == "__main__":
    main()
