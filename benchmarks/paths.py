"""Optimizers on paths of layers, without models: hypervolume at equal evaluations.

Eight layers of a merge and of two experts; each of two objectives is how many edits (Levenshtein) a path is
away from one of two hidden paths, which differ in the middle, one of them a layer longer. `python -m
benchmarks.paths [EVALUATIONS [SEEDS]]` prints mean and range of the hypervolume (reference 1 in both), and
what the last quarter of the candidates is worth. HM3 and NSGA-II search steps, CMA-ES the indicator array.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from evomerge.objectives.objective import Complete
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.kinds import make_optimizer
from evomerge.recipe.places import leaf_places
from evomerge.recipe.recipe import CheckpointSource
from evomerge.search_space import ModelLayout, SearchSpace, SearchSpaceDeclaration, build_search_space
from evomerge.testing.problems import minimised

LAYERS, EXPERTS = 8, ("math", "code")
POPULATION = 20
KINDS = ("hm3", "nsga2", "cma-es", "random-global", "random")


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


def searched(kind: str, evaluations: int, seed: int) -> tuple[float, float, float]:
    """Hypervolume, the mean of the last quarter, and seconds of one search."""
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
    )
    values: list[tuple[float, ...]] = []
    begun = time.perf_counter()
    while len(values) < evaluations:
        outcomes = []
        for genome in optimizer.ask():
            path = [paths.choices[number] for number, _ in paths.steps(genome)]
            far = tuple(edits(path, wanted) / LAYERS for wanted in (first, second))
            outcomes.append(Complete(far, (0.0, 0.0)))
        optimizer.tell(outcomes)
        values += [outcome.values for outcome in outcomes]
    seconds = time.perf_counter() - begun
    table = np.array(values[:evaluations])
    return hypervolume(table, 1.0), float(table[-evaluations // 4 :].mean()), seconds


def main() -> None:
    """Print a line a kind."""
    evaluations, seeds = (int(word) for word in [*sys.argv[1:], *("200", "5")[len(sys.argv) - 1 :]])
    print(
        f"{evaluations} evaluations, {seeds} seeds: hypervolume (least, largest); last quarter; seconds"
    )
    for kind in KINDS:
        found = np.array([searched(kind, evaluations, seed) for seed in range(seeds)])
        volume, late, seconds = found.T
        spread = f"({volume.min():.3f}, {volume.max():.3f})"
        print(
            f"{kind:14} {volume.mean():.3f} {spread}; {late.mean():.3f}; {seconds.mean():.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
