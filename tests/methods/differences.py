"""Print how far every merge of `cases` is from its oracle: `python -m tests.methods.differences`.

The oracle of all is the float64 reference of `reference`, over float32 files whose task vectors neither
tie nor cancel; where PEFT has the method, PEFT too. Differences are the largest over all tensors, in units
of the largest magnitude of the experts' task vectors; entries that a threshold or an election decides
otherwise, because float32 rounds, are counted apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from peft.utils import merge_utils

from evomerge.checkpoint.reader import open_readers
from evomerge.merge_method import METHODS
from evomerge.methods.blocks import Scratch
from evomerge.methods.execute import execute
from evomerge.plan import make_plan
from evomerge.recipe import CheckpointSource, single_source_recipe
from evomerge.weight_statistics import WeightStatistics
from tests.checkpoint.folders import write_family
from tests.methods import reference
from tests.methods.cases import CASES, merged

DECIDED = 1e-4
"""A relative difference that rounding cannot make: another entry survived or won."""


def value_at(source, name, expert, tensor):
    """A coefficient as the recipe states it, or its default."""
    declared = METHODS[source.method].coefficient(name)
    table = source.coefficients.get(name, {"*": {"": declared.default if declared else 1.0}})
    table = table.get(expert, table.get("*"))
    return table.get(".".join(tensor.split(".")[1:3]), table[""])


def main() -> None:
    """Print a table, a line for each case and oracle."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        family = write_family(Path(folder), dtype=torch.float32)
        statistics, readers = WeightStatistics(family), open_readers(family)
        values = {n: {t: readers[n].read(t) for t in f.tensors} for n, f in family.items()}

        def merge(source):
            checkpoints = {name: CheckpointSource(str(f.path)) for name, f in family.items()}
            recipe = single_source_recipe({**checkpoints, "merged": source}, "merged", 2, "float32")
            for entry in make_plan(recipe, family, statistics).tensors:
                out = torch.empty(entry.shape)
                execute(entry, readers, out, Scratch())
                yield entry.name, out.double().numpy()

        def report(name, oracle, source, expected):
            worst, decided, count = 0.0, 0, 0
            for tensor, found in merge(source):
                wanted = expected(source, tensor)
                base = values["base"][tensor].double().numpy()
                unit = max(
                    np.abs(values[n][tensor].double().numpy() - base).max() for n in source.inputs
                )
                difference = np.abs(found - wanted) / unit
                decided += int((difference > DECIDED).sum())
                count += difference.size
                worst = max(worst, float(difference[difference <= DECIDED].max()))
            print(f"{name:28} {oracle:10} {worst:.1e}  {decided} of {count}")

        def by_reference(source, tensor):
            method = METHODS[source.method]
            options, thresholds = method.resolve(source.options), None
            if options.get("trim") == "model":
                density = source.coefficients["density"]["*"][""]
                thresholds = {}
                for n in source.inputs:
                    deltas = [values[n][t] - values["base"][t] for t in values[n]]
                    sizes = np.sort(np.abs(np.concatenate([d.reshape(-1).numpy() for d in deltas])))
                    thresholds[n] = sizes[::-1][int(density * sizes.size) - 1] * (1 - 1e-7)
            return reference.merge(
                source.method, options, values["base"][tensor].double().numpy(),
                [values[n][tensor].double().numpy() for n in source.inputs], source.inputs,
                lambda name, expert: value_at(source, name, expert, tensor),
                source.seed, tensor, thresholds,
            )  # fmt: skip

        def by_peft(source, tensor):
            base = values["base"][tensor]
            deltas = [values[n][tensor] - base for n in source.inputs]
            weights = torch.tensor([value_at(source, "weight", n, tensor) for n in source.inputs])
            if source.method == "ties":
                density = value_at(source, "density", "*", tensor)
                return (base + merge_utils.ties(deltas, weights, density)).double().numpy()
            return (base + merge_utils.task_arithmetic(deltas, weights)).double().numpy()

        print(f"{'case':28} {'oracle':10} largest  decided otherwise")
        for name, source in CASES.items():
            report(name, "reference", source, by_reference)
        weights = {"a": 0.3, "b": 0.9, "c": 1.1}
        report("task_arithmetic", "peft", merged(weight=weights), by_peft)
        report("ties", "peft", merged("ties", weight=weights, density=0.37), by_peft)


if __name__ == "__main__":
    main()
