"""CPU seconds of a whole candidate: mergekit's merge to disk and lm-eval on the result, against our worker.

A Llama of 16 M parameters, a base and three experts in bfloat16, 200 four-choice items scored in float32.
Theirs is what mergekit-evolve does for a candidate: merge to a folder (mergekit, in the environment of
`make oracles`; its start is not counted), load it, `simple_evaluate` at its best batch size with the task
manager ready-made. Ours is one `evaluate` job of a worker: recipe to plan to live parameters to scores; the
first job, which loads model and requests, is shown apart. Also shown: the share of our candidate that is
spent outside of the model's forward pass. One thread; prints ratios and asserts nothing. Goals: 3 for
linear, 4 for TIES, at most 8 % outside of the forward pass.

    python -m benchmarks.candidate .venv-oracles/bin/python [--repeats 3] [--items 200]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.evaluate import BATCH_SIZES, SHAPES, random_model, random_tokenizer, write_items
from benchmarks.vs_mergekit import EXPERTS, RUNNER, write_experts
from evomerge.recipe.recipe import CheckpointSource, MergedSource, single_source_recipe
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.worker import Worker

DENSITY = 0.5
METHODS = ("linear", "ties")
OPTIONS = {"linear": {}, "ties": {"election": "after", "divisor": "weight", "rounding": "binary"}}
"""Those that are mergekit's."""


def write_models(root: Path) -> int:
    """Base and experts; gives the number of layers."""
    model = random_model(*SHAPES["16 M"]).bfloat16()
    model.save_pretrained(root / "base")
    random_tokenizer().save_pretrained(root / "base")
    write_experts(root)
    return int(model.config.num_hidden_layers)


def weights(number: int) -> list[float]:
    """Those of one candidate; every candidate has others."""
    return [round(0.3 + 0.1 * index + 0.01 * number, 3) for index in range(len(EXPERTS))]


def merge_theirs(python: str, root: Path, method: str, repeats: int) -> list[float]:
    """CPU seconds of each of mergekit's merges, which stay in `root/METHOD-NUMBER`."""
    jobs = []
    for number in range(repeats):
        lines = [f"merge_method: {method}", "models:"]
        for name, weight in zip(EXPERTS, weights(number), strict=True):
            lines += [f"  - {{model: {root / name}, parameters: {{weight: {weight}}}}}"]
        if method == "ties":
            lines += [f"base_model: {root / 'base'}", f"parameters: {{density: {DENSITY}}}"]
        else:
            lines += ["parameters: {normalize: false}"]
        path = root / f"{method}-{number}.yml"
        path.write_text("\n".join([*lines, "dtype: float32", "out_dtype: bfloat16"]) + "\n")
        jobs.append({"yaml": str(path), "out": str(root / f"{method}-{number}")})
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, str(RUNNER), str(root / "jobs.json")], capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if any("error" in answer for answer in answers) or len(answers) < repeats:
        raise SystemExit(f"mergekit failed: {answers} {done.stderr}")
    return [float(answer["cpu"]) for answer in answers]


def score_theirs(folder: Path, tasks: Path, batch_size: int) -> tuple[float, float]:
    """CPU seconds of loading a folder and scoring it, and its accuracy."""
    began = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(tasks):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        lm = HFLM(
            pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch_size
        )
        manager = TaskManager(include_path=".", include_defaults=False)
        found: Any = simple_evaluate(
            model=lm, tasks=["bench_search"], task_manager=manager, bootstrap_iters=0, log_samples=False
        )
    accuracy = float(found["results"]["bench_search"]["acc,none"])
    return time.process_time() - began, accuracy


class Ours:
    """A worker whose forward passes are timed."""

    def __init__(self, root: Path, declaration: Path, layers: int) -> None:
        sources = {name: str(root / name) for name in ("base", *EXPERTS)}
        self.sources = {name: CheckpointSource(path) for name, path in sources.items()}
        self.layers = layers
        self.forward = 0.0
        self.worker = Worker(
            WorkerSetup(
                sources=sources, evaluators=(str(declaration),), methods=METHODS, trims=("tensor",),
                dtype="float32", storage="bfloat16", device="cpu", threads=1, batch_size=64,
                cache=str(root / "cache"), kernels="plain",
            )
        )  # fmt: skip

    def watch(self) -> None:
        """Time the forward passes of the live model from now on."""
        model = self.worker._loaded().live().model
        began = [0.0]

        def enter(*_: object) -> None:
            began[0] = time.process_time()

        def leave(*_: object) -> None:
            self.forward += time.process_time() - began[0]

        model.register_forward_pre_hook(enter)
        model.register_forward_hook(leave)

    def candidate(self, method: str, number: int) -> tuple[float, float, JobResult]:
        """CPU seconds of a candidate, those of its forward passes, and its result."""
        inputs = dict(zip(EXPERTS, weights(number), strict=True))
        tables = {"weight": {name: {"": value} for name, value in inputs.items()}}
        if method == "ties":
            tables["density"] = {name: {"": DENSITY} for name in EXPERTS}
        base = "base" if method == "ties" else None
        merged = MergedSource(method, EXPERTS, base, tables, OPTIONS[method], 7)
        recipe = single_source_recipe(
            {**self.sources, "merged": merged}, "merged", self.layers, "bfloat16"
        )
        self.forward = 0.0
        began = time.process_time()
        result = self.worker.run(Job(f"{method}-{number}", "evaluate", recipe.to_json()))
        if result.status != "ok":
            raise SystemExit(f"our candidate failed: {result.failure}: {result.message}")
        return time.process_time() - began, self.forward, result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=BATCH_SIZES, help="of lm-eval")
    chosen = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "tasks").mkdir()
        layers = write_models(root)
        declaration = write_items(root / "tasks", chosen.items)
        best = chosen.batch_sizes[0]
        if len(chosen.batch_sizes) > 1:
            sizes = {n: score_theirs(root / "base", root / "tasks", n)[0] for n in chosen.batch_sizes}
            best = min(sizes, key=lambda size: sizes[size])
            print(f"simple_evaluate by batch size: {sizes}")
        print(f"{chosen.items} items; simple_evaluate with batch {best}\n")
        ours = Ours(root, declaration, layers)
        print(
            "| method | mergekit's merge | load + lm-eval | ours | ratio | outside forward | ours, first |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for method in METHODS:
            merges = merge_theirs(chosen.python, root, method, chosen.repeats)
            first = ours.candidate(method, chosen.repeats)[0]
            if method == METHODS[0]:
                ours.watch()
            scored, mine, outside, differences = [], [], [], []
            for number in range(chosen.repeats):
                took, theirs = score_theirs(root / f"{method}-{number}", root / "tasks", best)
                scored.append(took)
                total, forward, result = ours.candidate(method, number)
                mine.append(total)
                outside.append(1 - forward / total)
                differences.append(abs(result.measured.metrics["bench.acc"].value - theirs))
            merge, score, own = map(statistics.median, (merges, scored, mine))
            share = 100 * statistics.median(outside)
            print(
                f"| {method} | {merge:.2f} | {score:.2f} | {own:.2f} | {(merge + score) / own:.2f} "
                f"| {share:.1f} % | {first:.2f} |",
                flush=True,
            )
            print(f"largest difference of accuracies: {max(differences):.4f}", flush=True)


if __name__ == "__main__":
    main()
