"""Run the steps within some minutes: every line at once, everything into DIR/gpu.json.

    python -m benchmarks.gpu --out DIR --minutes 8 [--only 1 2 9] [--device cpu]

Without a CUDA device it says so and runs a tiny version of every step on the CPU. A step that fails prints
its error and the next one runs; one that is quick leaves its time to those after it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks.gpu.report import Report, Step

LIBRARIES = ("torch", "triton", "transformers", "accelerate", "peft", "safetensors", "lm_eval", "numpy")


def later(module: str, function: str) -> Any:
    """A step whose module is imported when it runs, so that one that cannot be imported costs but itself."""

    def step(bed: Any, report: Report) -> None:
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(bed, report)

    return step


STEPS = (
    Step(1, "the bits of merges", 3, later("merging", "correctness")),
    Step(2, "materialising, experts on the device", 4, later("merging", "materialise")),
    Step(3, "materialising, experts on the host", 2, later("merging", "from_host")),
    Step(4, "scoring against lm-eval", 3, later("evaluating", "scoring")),
    Step(5, "generating against lm-eval", 3, later("evaluating", "generating")),
    Step(6, "a whole candidate", 1, later("evaluating", "candidate")),
    Step(7, "memory", 1, later("evaluating", "memory")),
    Step(8, "two workers on one card", 3, later("campaigns", "two_workers")),
    Step(9, "a slope", 1, later("slope", "slope")),
    Step(10, "a campaign, and the CPU's", 3, later("campaigns", "against_cpu")),
)


def main(words: list[str] | None = None) -> int:
    """Run what was asked for; gives the number of steps that were not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json; made if missing")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of steps")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="cpu: the tiny version, also on a card"
    )
    chosen = parser.parse_args(words)
    end = time.monotonic() + 60.0 * chosen.minutes
    found = torch.cuda.is_available()
    device = chosen.device or ("cuda" if found else "cpu")
    if not found:
        print("no CUDA device: a tiny version of every step on the CPU, whose figures mean nothing")
    if device == "cpu":
        torch.set_num_threads(1)
    logging.basicConfig(format="     %(name)s: %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.WARNING)  # whoever else lowers what is logged
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "a CPU"
    versions = {library: _version(library) for library in LIBRARIES}
    print(f"{name}; {', '.join(f'{k} {v}' for k, v in versions.items())}", flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    header = {"device": name, "tiny": device == "cpu", "versions": versions, "minutes": chosen.minutes}
    report = Report(chosen.out / "gpu.json", {**header, "python": platform.python_version()})
    steps = [step for step in STEPS if not chosen.only or step.number in chosen.only]
    with tempfile.TemporaryDirectory() as folder:
        from benchmarks.gpu.bed import Bed

        bed = Bed(device, device == "cpu", Path(folder))
        for place, step in enumerate(steps):
            share = step.share / sum(each.share for each in steps[place:])
            report.carry_out(step, bed, max(0.0, end - time.monotonic()) * share)
            bed.clear()
    undone = [number for number, told in report.steps.items() if told["status"] != "done"]
    print(f"not done: {', '.join(undone) or 'none'}; all figures in {report.path}")
    return len(undone)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
