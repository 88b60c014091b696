"""CPU seconds of one candidate: mergekit merging to disk and loading the result, against ours, live.

The same YAML goes to both, over a Llama of about 110 M parameters and three experts in bfloat16. mergekit
runs in the environment of `make oracles` (argument: its Python); its inputs are in the page cache, as ours
are. One process merges all its candidates; a second ratio adds its start, which a process per candidate
pays. Ours is what a search does for a candidate: recipe to plan to the parameters of a resident model, by
compiled passes; a first candidate, which prepares statistics, is timed apart (compiling runs in a process
of its own). Every candidate has other weights, so that all of its tensors are written. The least of the
repeats counts on both sides. Prints ratios and asserts nothing; goals: 15 for linear and task_arithmetic,
80 for dare_ties, 200 for ties.

    python -m benchmarks.vs_mergekit .venv-oracles/bin/python [--repeats 3] [--methods linear ...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel
from evomerge.merge.passes.compiled import Kernels
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.mergekit import read_mergekit

METHODS = {
    "linear": "normalize: false",
    "task_arithmetic": "normalize: false",
    "dare_ties": "density: 0.5",
    "ties": "density: 0.5",
}
EXPERTS = ("one", "two", "three")
RUNNER = Path(__file__).parents[1] / "tests" / "oracles" / "run_mergekit.py"


def write_experts(root: Path) -> None:
    """Beside `root/base`, experts that differ from it by a little noise in every weight."""
    base = load_file(root / "base" / "model.safetensors")
    for number, name in enumerate(EXPERTS):
        generator = torch.Generator().manual_seed(number)
        shutil.copytree(root / "base", root / name)
        tensors = {
            key: (value.float() + 2e-3 * torch.randn(value.shape, generator=generator)).bfloat16()
            for key, value in base.items()
        }
        save_file(tensors, str(root / name / "model.safetensors"), metadata={"format": "pt"})


def write_models(root: Path, layers: int) -> int:
    """Base and experts with random weights; gives the number of parameters."""
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=layers,
        num_attention_heads=12, num_key_value_heads=12, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(root / "base")
    write_experts(root)
    return model.num_parameters()


def write_yaml(root: Path, method: str, number: int) -> Path:
    """The file of one candidate."""
    lines = [f"merge_method: {method}", "models:"]
    for index, name in enumerate(EXPERTS):
        weight = round(0.3 + 0.1 * index + 0.01 * number, 3)
        lines += [f"  - {{model: {root / name}, parameters: {{weight: {weight}}}}}"]
    if method != "linear":
        lines += [f"base_model: {root / 'base'}"]
    lines += [f"parameters: {{{METHODS[method]}}}", "dtype: float32", "out_dtype: bfloat16"]
    path = root / f"{method}-{number}.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


def ours(root: Path, method: str, repeats: int, kernels: Kernels) -> tuple[float, float]:
    """CPU seconds of the first candidate, without compiling, and the least of the following."""
    seconds = []
    live: LiveModel | None = None
    for number in range(repeats + 1):
        recipe = read_mergekit(write_yaml(root, method, number)).recipe
        if live is None:
            base = open_folder(root / "base", "base")
            folders = {
                name: open_folder(source.path, name) for name, source in recipe.checkpoints.items()
            }
            readers = open_readers(dict(folders))
            known = WeightStatistics(folders, None, {name: name for name in folders}, readers)
            live = LiveModel.load(base, "bfloat16", kernels=kernels)
        started = time.process_time()
        live.materialize(make_plan(recipe, folders, known), readers)
        seconds.append(time.process_time() - started)
    return seconds[0], min(seconds[1:])


def theirs(python: str, root: Path, method: str, repeats: int) -> tuple[float, float]:
    """Least CPU seconds of mergekit's merges and loads in one process, and those of its start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs = [
        {"yaml": str(write_yaml(root, method, number)), "out": str(root / "out"), "load": True}
        for number in range(repeats)
    ]
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, str(RUNNER), str(root / "jobs.json")], capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if any("error" in answer for answer in answers) or len(answers) < repeats:
        raise SystemExit(f"mergekit failed: {answers} {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = [float(answer["cpu"]) for answer in answers]
    return min(seconds), total - sum(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--kernels", type=Path, help="folder of compiled passes to keep")
    parser.add_argument("--plain", action="store_true", help="without compiled passes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        count = write_models(root, chosen.layers)
        print(f"{count / 1e6:.0f} M parameters, {len(EXPERTS)} experts, CPU seconds on one thread\n")
        print("| method | mergekit | ours | ratio | ratio with mergekit's start | ours, first |")
        print("| --- | --- | --- | --- | --- | --- |")
        kernels = Kernels(chosen.kernels or root / "kernels", "plain" if chosen.plain else "compiled")
        for method in chosen.methods:
            first, warm = ours(root, method, chosen.repeats, kernels)
            slow, start = theirs(chosen.python, root, method, chosen.repeats)
            ratios = f"{slow / warm:.0f} | {(slow + start) / warm:.0f}"
            print(f"| {method} | {slow:.2f} | {warm:.3f} | {ratios} | {first:.1f} |", flush=True)


if __name__ == "__main__":
    main()
