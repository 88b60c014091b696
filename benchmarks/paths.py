"""Optimizers on paths of layers, without models: hypervolume at equal evaluations.

Eight layers of a merge and of two experts; each of two objectives is how many edits (Levenshtein) a path is
away from one of two hidden paths, which differ in the middle, one of them a layer longer. `python -m
benchmarks.paths [EVALUATIONS [SEEDS]]` prints mean and range of the hypervolume (reference 1 in both), and
what the last quarter of the candidates is worth. HM3 and NSGA-II search steps, CMA-ES the indicator array.

`python -m benchmarks.paths constants [EVALUATIONS [SEEDS]]` gives HM3 another value of one constant after
another: those that the paper leaves out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evomerge.objectives.objective import Complete
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.places import leaf_places
from evomerge.recipe.recipe import CheckpointSource
from evomerge.search_space import (
    Genome,
    ModelLayout,
    SearchSpace,
    SearchSpaceDeclaration,
    build_search_space,
)
from evomerge.testing.problems import minimised

LAYERS, EXPERTS = 8, ("math", "code")
POPULATION = 20
KINDS = ("hm3", "nsga2", "cma-es", "random-global", "random")

OTHERS: dict[str, tuple[float | str, ...]] = {
    "episodes": (40,),
    "rate": (0.003, 0.03),
    "epochs": (5, 20),
    "hidden": (16, 64),
    "explore": (0.0, 0.3),
    "entropy": (0.0, 0.01),
    "clip": (0.1, 0.4),
    "value": (0.25, 1.0),
    "trace": (0.8, 1.0),
    "length": (0.0, 0.1),
    "nearest": (1, 6),
    "preferences": (10,),
    "scalarise": ("tchebycheff",),
    "reward": ("spread",),
}
"""Other values of HM3's constants, the likeliest to matter first."""


def path_space(form: str) -> SearchSpace:
    """Paths through the average and both experts, of 4 to 12 layers."""
    declaration = SearchSpaceDeclaration.model_validate(
        {
            "schema": 1,
            "method": "linear",
            "coefficients": {"weight": {"value": 1.0}},
            "layer_path": {"form": form, "sources": ["merged", "experts"], "max_layers": 12},
        }
    )
    layout = ModelLayout(LAYERS, leaf_places(LAYERS, ("attn", "mlp"), ("embed", "head")), 1)
    sources = {name: CheckpointSource(name, name) for name in ("base", *EXPERTS)}
    return build_search_space(declaration, layout, sources, EXPERTS, "bfloat16", 1)


def edits(one: list[Any], other: list[Any]) -> int:
    """The Levenshtein distance of two sequences."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def path_problem(
    kind: str, seed: int, options: Mapping[str, Any] | None = None
) -> tuple[Optimizer, Callable[[Genome], Complete]]:
    """An optimizer of a kind, and what its candidates are worth."""
    space = path_space("indicator" if kind == "cma-es" else "steps")
    assert space.paths is not None
    paths = space.paths
    first = [("merged" if layer < 3 else "math", layer) for layer in range(LAYERS)]
    second = [("code" if layer in (4, 5) else "merged", layer) for layer in range(LAYERS)]
    second.insert(6, ("code", 5))
    optimizer = make_optimizer(
        kind,
        space.genes,
        minimised(2),
        population=POPULATION,
        seed=seed,
        initial=[space.uniform({"math": 0.5, "code": 0.5})],
        settings=optimizer_settings(kind, options or {}),
    )

    def outcome(genome: Genome) -> Complete:
        path = [paths.choices[number] for number, _ in paths.steps(genome)]
        return Complete(tuple(edits(path, wanted) / LAYERS for wanted in (first, second)), (0.0, 0.0))

    return optimizer, outcome


def searched(
    kind: str, evaluations: int, seed: int, options: Mapping[str, Any] | None = None
) -> tuple[float, float, float]:
    """Hypervolume, the mean of the last quarter, and seconds of one search."""
    optimizer, outcome = path_problem(kind, seed, options)
    values: list[tuple[float, ...]] = []
    begun = time.perf_counter()
    while len(values) < evaluations:
        outcomes = [outcome(genome) for genome in optimizer.ask()]
        optimizer.tell(outcomes)
        values += [each.values for each in outcomes]
    seconds = time.perf_counter() - begun
    table = np.array(values[:evaluations])
    return hypervolume(table, 1.0), float(table[-evaluations // 4 :].mean()), seconds


def main() -> None:
    """Print a line a kind, or one a constant."""
    words = sys.argv[1:]
    constants = words[:1] == ["constants"]
    words = words[constants:]
    evaluations, seeds = (int(word) for word in [*words, *("200", "5")[len(words) :]])
    print(
        f"{evaluations} evaluations, {seeds} seeds: hypervolume (least, largest); last quarter; seconds"
    )
    rows: list[tuple[str, str, dict[str, Any]]] = [(kind, kind, {}) for kind in KINDS]
    if constants:
        rows = [("hm3", "defaults", {})]
        rows += [("hm3", f"{n} {v}", {n: v}) for n, values in OTHERS.items() for v in values]
    for kind, name, options in rows:
        found = np.array([searched(kind, evaluations, seed, options) for seed in range(seeds)])
        volume, late, seconds = found.T
        spread = f"({volume.min():.3f}, {volume.max():.3f})"
        print(
            f"{name:22} {volume.mean():.3f} {spread}; {late.mean():.3f}; {seconds.mean():.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
