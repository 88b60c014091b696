"""Interpolation, task arithmetic and RegMean of pairs of digit readers, and what distances say beforehand.

As in the empirical study of multimodal merging (Sung et al. 2023, arXiv:2304.14933), on the bed of
`make_bed.py`: experts of three groups of digits, fine-tuned for 40, 120 and 360 steps, are merged in pairs of
equal training. The ratio, lambda or alpha of a method is chosen on selection items; scores are
mean accuracies over the pair's two groups on test items. RegMean sees ten training pictures of each digit. At
the end Spearman's correlation over the pairs, of each distance with what the best merge falls short of the
two experts, each on its own digits.

    python experiments/digits/compare.py runs/digits/compare
"""

import argparse
import copy
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import yaml
from make_bed import (
    BASE_STEPS,
    GROUPS,
    SEED,
    new_model,
    pictures,
    save,
    train,
)
from scipy.stats import spearmanr

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.statistics.kinship import kinship
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.json_form import recipe_from_json
from evomerge.run.job import Job, WorkerSetup
from evomerge.run.worker import Worker

STEPS = (40, 120, 360)
SHOWN = 10
DISTANCES = ("distance", "cosine", "ssd", "tssd")
TRIED = {
    "interpolation": [("linear", {"ratio": ratio}) for ratio in (0.3, 0.5, 0.7)],
    "arithmetic": [("task_arithmetic", {"lambda": value}) for value in (0.4, 0.7, 1.0)],
    "RegMean": [("regmean", {"alpha": value}) for value in (0.5, 0.9, 1.0)],
}


def make(out: Path) -> None:
    """Train base and experts, and write models, evaluators and calibration pictures."""
    images, labels = pictures()
    learnt, held = np.array_split(np.random.default_rng(SEED).permutation(len(labels)), 2)
    base = new_model()
    train(base, images[learnt], labels[learnt], BASE_STEPS, 2e-3, head=True)
    models = {"base": base}
    for name, group in GROUPS.items():
        own = learnt[np.isin(labels[learnt], group)]
        for steps in STEPS:
            models[f"{name}-{steps}"] = copy.deepcopy(base)
            train(models[f"{name}-{steps}"], images[own], labels[own], steps, 3e-4, head=False)
        kept = held[np.isin(labels[held], group)]
        np.savez(out / f"{name}.npz", images=images[kept], labels=labels[kept])
        declared = {"schema": 1, "kind": "image_classification", "name": name, "images": f"{name}.npz"}
        (out / f"{name}.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    shown = np.concatenate([learnt[labels[learnt] == digit][:SHOWN] for digit in range(10)])
    np.savez(out / "shown.npz", images=images[shown], labels=labels[shown])
    save(models, out)


class Bed:
    """Scores merges of the models of a folder."""

    def __init__(self, out: Path) -> None:
        names = ["base", *(f"{name}-{steps}" for name in GROUPS for steps in STEPS)]
        self.folders = {name: open_folder(out / "models" / name, name) for name in names}
        self.shown = Calibration("shown.npz").located(out)
        self.worker = Worker(
            WorkerSetup(
                sources={name: str(folder.path) for name, folder in self.folders.items()},
                evaluators=tuple(str(out / f"{name}.yaml") for name in GROUPS),
                methods=("linear", "task_arithmetic", "regmean"),
                trims=("tensor",),
                dtype="float32",
                storage="float32",
                device="cpu",
                threads=1,
                batch_size=64,
                cache=str(out / "cache"),
                kernels="plain",
                calibration=self.shown,
            )
        )

    def accuracies(self, source: str, merged: dict[str, object] | None, split: str) -> dict[str, float]:
        """By group, of a model or of a merge called `source`."""
        sources = {n: {"path": str(f.path), "checkpoint": ""} for n, f in self.folders.items()}
        layers = range(self.folders["base"].layers)
        data = {
            "sources": sources | ({source: merged} if merged else {}),
            "path": [[source, layer] for layer in layers],
            "outer": dict.fromkeys(("embed", "final_norm", "head"), source),
            "dtype": "float32",
        }
        recipe = recipe_from_json(data)
        result = self.worker.run(Job("one", "evaluate", recipe.to_json(), split))
        if result.measured is None:
            raise RuntimeError(f"{result.failure}: {result.message}")
        return {name: result.measured.metrics[f"{name}.acc"].value for name in GROUPS}

    def best(self, how: str, pair: tuple[str, str]) -> tuple[float, dict[str, float]]:
        """Mean accuracy of the pair on test items, and the coefficient chosen on selection items."""
        groups = [name.split("-")[0] for name in pair]

        def mean(merged: dict[str, object], split: str) -> float:
            found = self.accuracies("merged", merged, split)
            return float(np.mean([found[group] for group in groups]))

        tried = [(self.merge(method, pair, values), values) for method, values in TRIED[how]]
        merged, values = max(tried, key=lambda each: mean(each[0], "selection"))
        return mean(merged, "test"), values

    def merge(self, method: str, pair: tuple[str, str], values: dict[str, float]) -> dict[str, object]:
        """A recipe's merged source."""
        ratio = values.get("ratio", 0.5)
        weights = dict(zip(pair, (1.0 - ratio, ratio), strict=True))
        if method == "task_arithmetic":
            weights = dict.fromkeys(pair, values["lambda"])
        coefficients: dict[str, object] = {"weight": weights}
        stated = {"method": method, "inputs": list(pair), "coefficients": coefficients}
        if method != "linear":
            stated["base"] = "base"
        if method == "regmean":
            coefficients["alpha"] = {"*": values["alpha"]}
            stated["calibration"] = {"path": self.shown.path}
        return stated


def main() -> None:
    """Make the models where they are not there, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    torch.set_num_threads(1)
    (out / "models").mkdir(parents=True, exist_ok=True)
    if not (out / "shown.npz").exists() or not (out / "models" / "base").exists():
        make(out)
    bed = Bed(out)
    readers = open_readers(bed.folders)
    own = {name: bed.accuracies(name, None, "test") for name in bed.folders}
    rows = []
    for steps in STEPS:
        for groups in combinations(GROUPS, 2):
            pair = (f"{groups[0]}-{steps}", f"{groups[1]}-{steps}")
            near = kinship(
                readers["base"],
                {name: readers[name] for name in pair},
                list(bed.folders["base"].tensors),
            )
            row = {
                "pair": f"{groups[0]}, {groups[1]}",
                "steps": steps,
                "base": float(np.mean([own["base"][group] for group in groups])),
                "experts": float(np.mean([own[n][g] for n, g in zip(pair, groups, strict=True)])),
            }
            row |= {kind: float(getattr(near, kind)[0, 1]) for kind in DISTANCES}
            for how in TRIED:
                row[how], row[f"{how}'s"] = bed.best(how, pair)
            rows.append(row)
            print(json.dumps(row), flush=True)
    head = ("pair", "steps", "base", "experts", *TRIED, *DISTANCES)
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        scores = [f"{100 * row[name]:.1f}" for name in ("base", "experts", *TRIED)]
        far = [f"{row[name]:.3f}" for name in DISTANCES]
        print("| " + " | ".join([row["pair"], str(row["steps"]), *scores, *far]) + " |")
    short = [row["experts"] - max(row[how] for how in TRIED) for row in rows]
    for name in DISTANCES:
        found = spearmanr([row[name] for row in rows], short)
        print(f"{name}: Spearman {found.statistic:+.2f} with what the best merge falls short by")


if __name__ == "__main__":
    main()
