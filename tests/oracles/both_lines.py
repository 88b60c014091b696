"""Exports of every family, from bases saved by either line of transformers, loaded by both: `make oracles`.

Argument: the Python of an environment with transformers 4. It saves a base and an expert of every family; we
load and save both again, which is what the newer line writes. The four pairs are merged, and each result is
loaded by both lines: all eight logits must be equal, within what the two lines' kernels differ by.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import load_file

from evomerge.export.export import merge_recipe
from tests.evaluators.conftest import build_tokenizer
from tests.families import FAMILIES

RUNNER = Path(__file__).with_name("run_transformers4.py")
LINES = ("older", "newer")
TOKENS = list(range(3, 51))
TEXT = "the cat eats 12 fish"
BOUND = 1e-4
"""Largest difference of logits, relative to the largest of them."""


def older(python: str, root: Path, jobs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Have transformers 4 do the jobs; folder to its answer."""
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, str(RUNNER), str(root / "jobs.json")], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return {said["folder"]: said for said in map(json.loads, done.stdout.splitlines())}


def save_again(folder: Path, out: Path) -> None:
    """Load a model and save it: what transformers 5 makes of a folder of transformers 4."""
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(out)


def merge(root: Path, base: str, expert: str) -> Path:
    """Merge a base of one line and an expert of one, half way."""
    out = root / f"{base}-{expert}"
    file = root / f"{base}-{expert}.yml"
    models = [{"model": str(root / expert / "expert"), "parameters": {"weight": 0.5}}]
    stated = {
        "merge_method": "task_arithmetic",
        "base_model": str(root / base / "base"),
        "models": models,
    }
    file.write_text(yaml.safe_dump({**stated, "dtype": "float32"}))
    merge_recipe(file, out)
    return out


def read(folder: Path, base: Path) -> torch.Tensor:
    """Logits of a folder, float32 [1, tokens, vocabulary]; its tokenizer must be the base's."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [
        transformers.AutoTokenizer.from_pretrained(place)(TEXT)["input_ids"] for place in (folder, base)
    ]
    assert ids[0] == ids[1], folder
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits


def compare(python: str, families: dict[str, tuple[str, dict[str, Any]]], root: Path) -> bool:
    """Print the table; gives whether all is equal."""
    print(f"\nExports in transformers {transformers.__version__} and in transformers 4\n")
    print("| family | base saved by 4, read by 4 | by 5 | base saved by 5, read by 4 | by 5 | |")
    print("| --- | --- | --- | --- | --- | --- |")
    wanted = build_tokenizer()(TEXT)["input_ids"]
    jobs = [
        {"make": str(root / name / "older"), "config": config, "fields": fields}
        for name, (config, fields) in families.items()
    ]
    made = older(python, root, jobs)
    jobs, faults = [], {}
    for name in families:
        place = root / name
        try:
            if error := made[str(place / "older")].get("error"):
                raise ValueError(error)
            for kind in ("base", "expert"):
                save_again(place / "older" / kind, place / "newer" / kind)
            for line in LINES:
                build_tokenizer().save_pretrained(place / line / "base")
            merged = [merge(place, base, expert) for base in LINES for expert in LINES]
        except Exception as error:  # one family that fails must not hide the others
            faults[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        jobs += [
            {
                "read": str(out),
                "tokens": TOKENS,
                "text": TEXT,
                "out": str(out.with_suffix(".safetensors")),
            }
            for out in merged
        ]
    said = older(python, root, jobs)
    sound = not faults
    for name in families:
        fault = faults.get(name, "")
        cells = []
        reference = None
        for base in LINES if not fault else ():
            for_older, for_newer = 0.0, 0.0
            for expert in LINES:
                out = root / name / f"{base}-{expert}"
                answer = said[str(out)]
                fault = fault or answer.get("error", "").splitlines()[0:1] or ""
                if fault:
                    break
                if answer["ids"] != wanted:
                    fault = f"tokens {answer['ids']}"
                theirs = load_file(out.with_suffix(".safetensors"))["logits"]
                reference = theirs if reference is None else reference
                scale = float(reference.abs().max())
                for_older = max(for_older, float((theirs - reference).abs().max()) / scale)
                for_newer = max(
                    for_newer,
                    float((read(out, root / name / base / "base") - reference).abs().max()) / scale,
                )
            cells += [for_older, for_newer]
        wrong = bool(fault) or max(cells) > BOUND
        sound = sound and not wrong
        shown = " | ".join(f"{cell:.1e}" if cell else "0" for cell in cells) if cells else " | | |"
        print(f"| {name} | {shown} | {fault or ('DIFFERS' if wrong else '')} |", flush=True)
    return sound


def main(python: str) -> int:
    """Compare all families."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        return 0 if compare(python, FAMILIES, Path(name)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
