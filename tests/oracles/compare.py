"""Compare merges with the real mergekit, both ways: `make oracles`.

mergekit runs in an environment of its own (argument: its Python). A file is carried out by both; our export
holds a `mergekit_config.yml`, which mergekit carries out too. All is computed in float32 and stored in
float32 and in bfloat16; random masks are made the same. `tolerance.py` says what is compared and how far
results may be apart. Before that our merges are held against functions: a float64 reference, PEFT's and
fusion-bench's (`functions.py`).
Exit code 1 if anything is outside its bounds or could not be compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.vocabulary import token_ids
from evomerge.export.export import merge_recipe
from evomerge.export.files import MERGEKIT_FILE, write_json
from evomerge.merge.passes.keys import mask_key
from evomerge.merge.passes.masks import FIRST_FACTOR, SECOND_FACTOR, signed_word
from evomerge.mergekit.stated import read_recipe
from evomerge.recipe.recipe import Recipe
from tests.oracles import functions, published
from tests.oracles.cases import CASES, FILES, RECIPES, TOKENS, Case, RecipeCase, recipe_of, yaml_text
from tests.oracles.models import (
    QUICKSTART,
    folder_tensors,
    write_quickstart,
    write_tiny,
    write_vocabularies,
)
from tests.oracles.tolerance import ELEMENTWISE, ITERATIVE, Distance

DTYPES = ("bfloat16", "float32")
RUNNER = Path(__file__).with_name("run_mergekit.py")
AnyCase = Case | RecipeCase


@dataclass
class Row:
    """What was found of one case: of the same file, and of the file we wrote."""

    case: AnyCase
    read: Distance = field(init=False)
    written: Distance = field(init=False)

    def __post_init__(self) -> None:
        iterative = isinstance(self.case, Case) and self.case.iterative
        bound = ITERATIVE if iterative else ELEMENTWISE
        self.read, self.written = Distance(bound), Distance(bound)

    @property
    def is_sound(self) -> bool:
        """Whether all that there is of this case is within its bounds."""
        return self.written.is_sound and (isinstance(self.case, RecipeCase) or self.read.is_sound)

    def __str__(self) -> str:
        read = "| | " if isinstance(self.case, RecipeCase) else str(self.read)
        end = "" if self.is_sound else "OUT OF BOUNDS"
        return f"| {self.case.name} | {read} | {self.written} | {end} |"


def draws(key: int, size: int) -> torch.Tensor:
    """The numbers of a mask by the published mixer, int32 [size], written again in 64 bits."""
    word = (1 << 32) - 1
    x = torch.arange(size, dtype=torch.int64) ^ (key & word)
    x = ((x ^ (x >> 16)) * FIRST_FACTOR + (key >> 32)) & word
    x = ((x ^ (x >> 15)) * (signed_word(SECOND_FACTOR) % (1 << 32))) & word
    return (x >> 1).to(torch.int32)


def write_draws(recipe: Recipe, root: Path, out: Path) -> None:
    """The draws of every source and tensor of a recipe, by the names of their folders."""
    base = open_folder(root / "base", "base")
    found = {}
    for name, source in recipe.checkpoints.items():
        for tensor, header in base.tensors.items():
            drawn = draws(mask_key(0, name, tensor), header.elements)
            found[f"{Path(source.path).name}/{tensor}"] = drawn
    save_file(found, str(out))


def by_token(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder, rows of embedding and head in the order of the tokens' texts.

    Rows without a token, which mergekit drops, are left out.
    """
    ids = token_ids(folder)
    order = torch.tensor([ids[token] for token in sorted(ids)])
    tensors = folder_tensors(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = tensors[name][order].contiguous()
    return tensors


def run(
    python: str,
    root: Path,
    experts: Sequence[str],
    cases: Sequence[AnyCase],
    load: Callable[[Path], dict[str, torch.Tensor]] = folder_tensors,
) -> list[Row]:
    """Carry out every case over one set of models, by both."""
    rows = [Row(case) for case in cases]
    layers = open_folder(root / "base", "base").layers
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        jobs = []
        for number, case in enumerate(cases):
            for dtype in DTYPES:
                label = f"{number}-{dtype}"
                if isinstance(case, RecipeCase):
                    file = work / f"{label}.json"
                    write_json(file, recipe_of(case, root, experts, layers, dtype).to_json())
                else:
                    file = work / f"{label}.yml"
                    file.write_text(yaml_text(case, root, experts, layers, dtype))
                ours = work / f"ours-{label}"
                merge_recipe(file, ours)
                more = {}
                if case.random:
                    more["draws"] = str(work / f"draws-{label}.safetensors")
                    write_draws(read_recipe(file).recipe, root, Path(more["draws"]))
                if isinstance(case, Case):
                    jobs.append({"yaml": str(file), "out": str(work / f"read-{label}"), **more})
                written = {"yaml": str(ours / MERGEKIT_FILE), "folder": str(ours)}
                jobs.append({**written, "out": str(work / f"written-{label}"), **more})
        said = mergekit(python, work, jobs)
        for number, row in enumerate(rows):
            for kind, distance in (("read", row.read), ("written", row.written)):
                for dtype in DTYPES:
                    theirs = work / f"{kind}-{number}-{dtype}"
                    if kind == "read" and isinstance(row.case, RecipeCase):
                        continue
                    distance.error = distance.error or said.get(str(theirs), "no answer")
                    if not distance.error:
                        distance.add(load(work / f"ours-{number}-{dtype}"), load(theirs))
    return rows


def mergekit(python: str, work: Path, jobs: list[dict[str, str]]) -> dict[str, str]:
    """Have mergekit do the jobs; folder to its error, empty where there was none."""
    (work / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, str(RUNNER), str(work / "jobs.json")], capture_output=True, text=True, check=False
    )
    said = {e["out"]: e.get("error", "") for e in map(json.loads, done.stdout.splitlines())}
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return said


def table(title: str, rows: Sequence[Row]) -> list[Row]:
    """Print rows, and give them."""
    print(f"\n{title}\n")
    print("| merge | same file: float32, relative | bfloat16 steps | elements differing "
          "| our file: float32, relative | bfloat16 steps | elements differing | |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(map(str, rows)), flush=True)
    return list(rows)


def print_summary(checked: Sequence[functions.Checked], rows: Sequence[Row]) -> None:
    """The largest difference by method and oracle."""
    worst: dict[str, dict[str, float]] = {}

    def note(method: str, oracle: str, difference: float) -> None:
        by_oracle = worst.setdefault(method, {})
        by_oracle[oracle] = max(by_oracle.get(oracle, 0.0), difference)

    for one in checked:
        note(one.method, one.oracle.split()[0], one.difference)
    for row in rows:
        if isinstance(row.case, Case):
            note(row.case.spoken, "same file", row.read.relative)
        note(row.case.spoken, "our file", row.written.relative)
    oracles = ("float64", "peft", "fusion-bench", "same file", "our file")
    print("\nLargest difference by method\n")
    print(
        "| method | float64 reference | PEFT | fusion-bench | mergekit, same file | mergekit, our file |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for method, found in worst.items():
        shown = [f"{found[oracle]:.1e}" if oracle in found else "" for oracle in oracles]
        print(f"| `{method}` | {' | '.join(shown)} |")


def main(python: str) -> int:
    """Compare functions, then checkpoints of tiny models and, where they are, the quickstart's."""
    torch.set_num_threads(1)
    cases: tuple[AnyCase, ...] = (*CASES, *FILES, *RECIPES)
    checked = functions.print_table(python)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rows = table("Tiny random models", run(python, root, write_tiny(root), cases))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        found = run(python, root, write_vocabularies(root), TOKENS, by_token)
        rows += table("Vocabularies that differ, row by token", found)
    if (QUICKSTART / "base").is_dir():
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            found = run(python, root, write_quickstart(root), cases)
        rows += table("Experts of the quickstart", found)
    print_summary(checked, rows)
    forms = published.compare(python)
    return 0 if forms and all(each.is_sound for each in (*checked, *rows)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
