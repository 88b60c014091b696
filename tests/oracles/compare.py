"""Compare `evomerge merge` with the real mergekit on the same YAML: `make oracles`.

mergekit runs in an environment of its own (argument: its Python). For each method and each set of models,
tiny random ones and the experts of the quickstart, both carry out one file, computed in float32 and stored
in bfloat16 and in float32. Printed: the largest difference in units of the last place of bfloat16 and how
many elements differ at all, the largest float32 difference relative to the tensor's largest element, and
the entries that were kept or elected otherwise (equal magnitudes at a threshold, sums that vanish but for
rounding), which are counted apart. Exit code 1 if a bound is broken.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.folder import open_folder
from evomerge.export import merge_recipe
from evomerge.mergekit import read_mergekit
from evomerge.methods.keys import mask_key
from evomerge.methods.masks import FIRST_FACTOR, SECOND_FACTOR, signed_word
from tests.oracles.cases import CASES, Case, yaml_text
from tests.tiny_models import write_model

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart" / "models"
DTYPES = ("bfloat16", "float32")
DECIDED = 1e-3
"""A float32 difference, relative to the largest task-vector entry, that rounding cannot make."""
BOUNDS = {False: 1e-6, True: 1e-5}
"""Largest float32 difference relative to the tensor's largest element, by `Case.iterative`."""
MOST_DECIDED = 1e-3
"""Largest share of elements that may be kept or elected otherwise: ties of stored bfloat16 numbers."""


@dataclass
class Row:
    """What was found of one case."""

    name: str
    ulps: int = 0
    differing: float = 0.0
    relative: float = 0.0
    decided: int = 0
    elements: int = 0
    error: str = ""

    def breaks(self, case: Case) -> bool:
        """Whether it is outside the bounds."""
        # One entry more or less at a threshold changes the sum that `rescale` matches, for its whole tensor.
        loose = case.iterative or self.decided > 0
        if self.error or self.relative > BOUNDS[loose]:
            return True
        return self.decided > MOST_DECIDED * self.elements or (self.ulps > 1 and not case.iterative)


def draws(key: int, size: int) -> torch.Tensor:
    """The numbers of a mask by the published mixer, int32 [size], written again in 64 bits."""
    word = (1 << 32) - 1
    x = torch.arange(size, dtype=torch.int64) ^ (key & word)
    x = ((x ^ (x >> 16)) * FIRST_FACTOR + (key >> 32)) & word
    x = ((x ^ (x >> 15)) * (signed_word(SECOND_FACTOR) % (1 << 32))) & word
    return (x >> 1).to(torch.int32)


def write_draws(yaml: Path, experts: Sequence[str], root: Path, out: Path) -> None:
    """The draws of every expert and tensor, by the names that the recipe of a file gives them."""
    recipe = read_mergekit(yaml).recipe
    base = open_folder(root / "base", "base")
    found = {}
    for name, source in recipe.checkpoints.items():
        if name == "base":
            continue
        for tensor, header in base.tensors.items():
            key = mask_key(0, name, tensor)
            found[f"{Path(source.path).name}/{tensor}"] = draws(key, header.elements)
    save_file(found, str(out))


def ulps(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Distance of two bfloat16 tensors in representable numbers between them."""

    def place(values: torch.Tensor) -> torch.Tensor:
        bits = values.contiguous().view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (place(left) - place(right)).abs()


def compare(row: Row, ours: Path, theirs: Path, dtype: str, spans: Mapping[str, float]) -> None:
    """Put the differences of two folders into a row."""
    left, right = (folder_tensors(path) for path in (ours, theirs))
    if set(left) != set(right):
        row.error = f"other tensors: {sorted(set(left) ^ set(right))[:3]}"
        return
    for name, mine in left.items():
        yours = right[name]
        apart = (mine.float() - yours.float()).abs()
        decided = apart > DECIDED * spans.get(name, 1.0) + 2**-8 * mine.float().abs() * (
            dtype != "float32"
        )
        if dtype == "float32":
            row.decided += int(decided.sum())
            row.elements += mine.numel()
            largest = float(mine.abs().max()) or 1.0
            row.relative = max(row.relative, float(torch.where(decided, 0.0, apart).max()) / largest)
        else:
            distance = torch.where(decided, 0, ulps(mine, yours))
            # Next to zero an ulp is next to nothing: what counts is a step of the task vectors' size.
            distance = torch.where(apart <= 1e-6 * mine.float().abs().max(), 0, distance)
            row.ulps = max(row.ulps, int(distance.max()))
            row.differing += int((distance > 0).sum())


def folder_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint folder."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def spans(root: Path, experts: Sequence[str]) -> dict[str, float]:
    """The largest task-vector entry by tensor."""
    base = folder_tensors(root / "base")
    found = dict.fromkeys(base, 0.0)
    for name in experts:
        for tensor, values in folder_tensors(root / name).items():
            found[tensor] = max(
                found[tensor], float((values.float() - base[tensor].float()).abs().max())
            )
    return found


def run(python: str, root: Path, experts: Sequence[str], cases: Sequence[Case]) -> list[Row]:
    """Carry out every case over one set of models, by both."""
    rows = [Row(case.name) for case in cases]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        jobs = []
        for number, case in enumerate(cases):
            for dtype in DTYPES:
                file = work / f"{number}-{dtype}.yml"
                file.write_text(yaml_text(case, str(root), experts, dtype))
                job = {"yaml": str(file), "out": str(work / f"theirs-{number}-{dtype}")}
                if case.random:
                    job["draws"] = str(work / f"draws-{number}.safetensors")
                    write_draws(file, experts, root, Path(job["draws"]))
                jobs.append(job)
        (work / "jobs.json").write_text(json.dumps(jobs))
        script = Path(__file__).with_name("run_mergekit.py")
        done = subprocess.run(
            [python, str(script), str(work / "jobs.json")], capture_output=True, text=True, check=False
        )
        said = {e["out"]: e for e in map(json.loads, done.stdout.splitlines())}
        if not said:
            raise SystemExit(done.stderr)
        sizes = spans(root, experts)
        for number, row in enumerate(rows):
            for dtype in DTYPES:
                theirs = work / f"theirs-{number}-{dtype}"
                row.error = said.get(str(theirs), {"error": "no answer"}).get("error", "")
                if row.error:
                    break
                ours = work / f"ours-{number}-{dtype}"
                merge_recipe(work / f"{number}-{dtype}.yml", ours)
                compare(row, ours, theirs, dtype, sizes)
    return rows


def table(title: str, rows: Sequence[Row], cases: Sequence[Case]) -> bool:
    """Print rows; gives whether all are within their bounds."""
    print(f"\n{title}\n")
    print("| method | ulp bfloat16 | elements differing | float32, relative | decided otherwise | |")
    print("| --- | --- | --- | --- | --- | --- |")
    sound = True
    for row, case in zip(rows, cases, strict=True):
        bad = row.breaks(case)
        sound &= not bad
        share = row.differing / max(row.elements, 1)
        shown = f"| {row.name} | {row.ulps} | {share:.1e} | {row.relative:.1e} | {row.decided} of"
        print(f"{shown} {row.elements} | {row.error or ('OUT OF BOUNDS' if bad else '')} |")
    return sound


def dithered(source: Path, target: Path) -> tuple[str, ...]:
    """Copies in float32 with noise of a thirtieth of a bfloat16 step; gives the experts' names.

    Of stored bfloat16 task vectors one in a hundred entries ties with the threshold: mergekit keeps an
    arbitrary part of them, we keep all. That difference is known, and would hide others.
    """
    names = sorted(p.name for p in source.iterdir() if (p / "config.json").is_file())
    generator = torch.Generator().manual_seed(0)
    for name in names:
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("*.safetensors*"))
        tensors = {}
        for tensor, values in folder_tensors(source / name).items():
            noise = torch.randn(values.shape, generator=generator) * 2**-13
            tensors[tensor] = values.float() + noise * float(values.float().abs().mean())
        save_file(tensors, str(target / name / "model.safetensors"), metadata={"format": "pt"})
        config = json.loads((target / name / "config.json").read_text()) | {"dtype": "float32"}
        (target / name / "config.json").write_text(json.dumps(config))
    return tuple(name for name in names if name != "base")


def main(python: str) -> int:
    """Compare over tiny models and, where they are, the quickstart's."""
    torch.set_num_threads(1)
    sound = True
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_model(root / "base", dtype=torch.float32, num_hidden_layers=3)
        experts = ("math", "code", "chat")
        for number, expert in enumerate(experts):
            write_model(root / expert, expert=number, dtype=torch.float32, num_hidden_layers=3)
        sound &= table("Tiny random models, float32", run(python, root, experts, CASES), CASES)
    if (QUICKSTART / "base").is_dir():
        with tempfile.TemporaryDirectory() as name:
            experts = dithered(QUICKSTART, Path(name))
            rows = run(python, Path(name), experts, CASES)
        sound &= table("Experts of the quickstart, dithered in float32", rows, CASES)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
