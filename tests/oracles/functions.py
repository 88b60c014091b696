"""Every case of `tests/methods/cases.py` and more against functions: a table, part of `make oracles`.

The float64 reference of `tests/methods/reference.py` holds all; PEFT's merge utilities and fusion-bench's
functions, which run in the oracle environment, those they have. Files are float32, and no two entries of a
task vector tie. A difference is the largest over all tensors, in units of the largest magnitude of the
experts' task vectors; rounding the result to float32 alone is about 1e-6 of that, and 1e-5 is the bound.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.execute import execute
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import CheckpointSource, MergedSource, single_source_recipe
from tests.checkpoint.folders import write_family
from tests.merge.passes import reference
from tests.merge.passes.cases import CASES, EXPERTS, merged

BOUND = 1e-5
RUNNER = Path(__file__).with_name("run_functions.py")
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Call:
    """A merge of ours that functions of other libraries make too, with their arguments."""

    source: MergedSource
    functions: Mapping[str, Mapping[str, Any]]


def calls(elements: int) -> dict[str, Call]:
    """By name; `elements` are those of the model.

    Where formulas differ our options are those of the library. fusion-bench's TIES trims over the model and
    keeps one entry more than `int(density * n)`.
    """
    weights = {"a": 0.3, "b": 0.9, "c": 1.1}
    each: dict[str, Any] = {"weights": [0.3, 0.9, 1.1]}
    kept = (int(elements * 0.2) + 1) / elements
    whole = {"trim": "model", "divisor": "none"}
    same = {"weight": 1.0, "lambda": 0.8, "density": kept}
    drop = {"weights": [0.3, 0.9, 1.1], "density": 0.75}
    ties = {"density": 0.2, "scale": 0.8}
    return {
        "linear, equal": Call(
            merged("linear", base=None, weight=1.0), {"fusion-bench simple_average": {}}
        ),
        "task_arithmetic, by expert": Call(merged(weight=weights), {"peft task_arithmetic": each}),
        "task_arithmetic, one number": Call(
            merged(weight=0.4), {"fusion-bench task_arithmetic_merge": {"scale": 0.4}}
        ),
        "breadcrumbs, gamma 0": Call(
            merged("breadcrumbs", weight=weights, density=0.37, gamma=0.0),
            {"peft magnitude_prune": {**each, "density": 0.37}},
        ),
        "ties, by tensor": Call(
            merged("ties", weight=weights, density=0.37), {"peft ties": {**each, "density": 0.37}}
        ),
        "ties, over the model": Call(
            merged("ties", options={"trim": "model"}, **same),
            {"fusion-bench ties_merging": {**ties, "mean_or_sum": "mean"}},
        ),
        "ties, over the model, sum": Call(
            merged("ties", options=whole, **same),
            {"fusion-bench ties_merging": {**ties, "mean_or_sum": "sum"}},
        ),
        "dare_linear, by expert": Call(
            merged("dare_linear", weight=weights, density=0.75),
            {"peft dare_linear": drop, "fusion-bench param_random_drop_": drop},
        ),
        "dare_ties, count": Call(
            merged("dare_ties", weight=weights, density=0.75, options={"divisor": "count"}),
            {"peft dare_ties": drop},
        ),
        "slerp, t 0.3": Call(
            merged("slerp", ("a", "b"), None, t=0.3), {"fusion-bench slerp": {"t": 0.3}}
        ),
        "model_stock of two": Call(
            merged("model_stock", ("a", "b")), {"fusion-bench merge_weights": {}}
        ),
    }


class Bench:
    """A tiny Llama and three fine-tunes in float32, what we make of them and what the reference does."""

    def __init__(self, root: Path) -> None:
        self.family: dict[str, CheckpointFolder] = write_family(root, dtype=torch.float32)
        self.statistics, self.readers = WeightStatistics(self.family), open_readers(self.family)
        self.values = {
            name: {t: self.readers[name].read(t) for t in folder.tensors}
            for name, folder in self.family.items()
        }

    def ours(self, source: MergedSource) -> Values:
        """The merge, tensor by tensor."""
        checkpoints = {name: CheckpointSource(str(f.path)) for name, f in self.family.items()}
        recipe = single_source_recipe({**checkpoints, "merged": source}, "merged", 2, "float32")
        found = {}
        for entry in make_plan(recipe, self.family, self.statistics).tensors:
            out = torch.empty(entry.shape)
            execute(entry, self.readers, out, Scratch())
            found[entry.name] = out.double().numpy()
        return found

    def reference(self, source: MergedSource) -> Values:
        """The same by the formulas in float64."""
        options = METHODS[source.method].resolve(source.options)
        thresholds = None
        if options.trim == "model":
            thresholds = {name: self._threshold(source, name) for name in source.inputs}
        return {
            tensor: reference.merge(
                source.method, options.to_json(), values.double().numpy(),
                [self.values[n][tensor].double().numpy() for n in source.inputs], source.inputs,
                lambda name, expert, at=tensor: value_at(source, name, expert, at),
                source.seed, tensor, thresholds,
            )
            for tensor, values in self.values["base"].items()
        }  # fmt: skip

    def _threshold(self, source: MergedSource, name: str) -> float:
        """Just below the smallest magnitude that a density over the model keeps."""
        base = self.values["base"]
        deltas = [(self.values[name][t] - base[t]).reshape(-1).numpy() for t in base]
        sizes = np.sort(np.abs(np.concatenate(deltas)))[::-1]
        density = source.coefficients["density"]["*"][""]
        count = math.floor(round(density * sizes.size, 6))
        return float(sizes[count - 1]) * (1 - 1e-7)

    def difference(self, source: MergedSource, found: Values, wanted: Values) -> float:
        """The largest, in units of the largest task-vector entry of each tensor."""
        base = self.values["base"]
        assert set(found) == set(wanted) == set(base)
        return max(
            float(np.abs(found[t] - wanted[t]).max())
            / max(float((self.values[n][t] - base[t]).abs().max()) for n in source.inputs)
            for t in base
        )


def value_at(source: MergedSource, name: str, expert: str, tensor: str) -> float:
    """A coefficient as the recipe states it, or its default."""
    declared = METHODS[source.method].coefficient(name)
    default = declared.default if declared else 1.0
    by_input = source.coefficients.get(name, {"*": {"": default}})
    table = by_input[expert] if expert in by_input else by_input["*"]
    return table.get(".".join(tensor.split(".")[1:3]), table[""])


def run_libraries(python: str, bench: Bench, work: Path) -> dict[tuple[str, str], Values]:
    """(case, function) to what the libraries make of it."""
    flat = {f"{n}/{t}": v.contiguous() for n, each in bench.values.items() for t, v in each.items()}
    drawn = {
        f"{name}/{tensor}": torch.tensor(
            (reference.numbers(0, name, tensor, values.numel()) * 2**31).astype(np.int32)
        )
        for name in EXPERTS
        for tensor, values in bench.values["base"].items()
    }
    save_file(flat, str(work / "models.safetensors"))
    save_file(drawn, str(work / "draws.safetensors"))
    jobs = [
        {"name": f"{number}-{function}", "function": function, "experts": call.source.inputs, **more}
        for number, call in enumerate(bench_calls(bench).values())
        for function, more in call.functions.items()
    ]
    (work / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([python, str(RUNNER), str(work)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return {
        (name, function): {
            tensor: values.double().numpy()
            for tensor, values in load_file(work / f"{number}-{function}.safetensors").items()
        }
        for number, (name, call) in enumerate(bench_calls(bench).items())
        for function in call.functions
    }


def bench_calls(bench: Bench) -> dict[str, Call]:
    """The calls for the bench's model."""
    return calls(sum(values.numel() for values in bench.values["base"].values()))


@dataclass(frozen=True)
class Checked:
    """One case held against one oracle; `difference` in units of the task vectors."""

    case: str
    method: str
    oracle: str
    difference: float

    @property
    def is_sound(self) -> bool:
        """Whether it is within the bound."""
        return self.difference <= BOUND


def check_all(python: str) -> Iterator[Checked]:
    """Every case against every oracle that has it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        bench = Bench(root)
        libraries = run_libraries(python, bench, root)
        plain = {name: source for name, source in CASES.items() if source.calibration is None}
        for case, source in {**plain, **{n: c.source for n, c in bench_calls(bench).items()}}.items():
            ours = bench.ours(source)
            oracles = {"float64 reference": bench.reference(source)}
            oracles |= {function: v for (other, function), v in libraries.items() if other == case}
            for oracle, theirs in oracles.items():
                found = bench.difference(source, ours, theirs)
                yield Checked(case, source.method, oracle, found)


def print_table(python: str) -> list[Checked]:
    """Print all rows, and give them."""
    print(
        "\nFunctions on tensors\n\n| case | oracle | largest difference | |\n| --- | --- | --- | --- |"
    )
    found = []
    for row in check_all(python):
        found.append(row)
        end = "" if row.is_sound else "OUT OF BOUNDS"
        print(f"| {row.case} | {row.oracle} | {row.difference:.1e} | {end} |", flush=True)
    return found
