"""Do the experts of a campaign conflict? One coefficient for all of them, from 0.1 to 1.5.

For each coefficient: accuracy of `base + c * sum of task vectors` on every task's test items, the largest
shortfall against an expert on its own task, and its one-sided 95 % lower bound (paired bootstrap). The
n-th expert's own task is the n-th objective.

    python benchmarks/conflict.py experiments/quickstart/campaign.yaml
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from test_scores import item_scores, open_worker

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.recipe.recipe import CheckpointSource, checkpoint_recipe, single_coefficient_recipe

RESAMPLES = 4000


def shortfall(expert: np.ndarray, merged: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Mean of expert - merged over items (float [items] each), and its one-sided 95 % lower bound."""
    difference = expert - merged
    picks = rng.integers(0, len(difference), (RESAMPLES, len(difference)))
    return float(difference.mean()), float(np.quantile(difference[picks].mean(axis=1), 0.05))


def main() -> None:
    """Print the table of one campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--coefficients", type=float, nargs="*", default=[c / 10 for c in range(1, 16)])
    parser.add_argument("--split", default="test", choices=("search", "selection", "test"))
    arguments = parser.parse_args()
    campaign = load_campaign(arguments.campaign)
    report = check_campaign(campaign)
    report.raise_problems()
    assert report.layout is not None
    layers = report.layout.layers
    sources = {name: CheckpointSource(path) for name, path in report.paths.items()}
    objectives = campaign.objectives
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as cache:
        worker = open_worker(campaign, report.paths, report.storage, Path(cache))
        experts = {}
        print(f"{'model':<16}" + "".join(f"{o.metric:>20}" for o in objectives))
        for name in ("base", *campaign.experts):
            recipe = checkpoint_recipe(sources, name, layers, report.storage)
            experts[name] = item_scores(worker, recipe, objectives, arguments.split)
            print(f"{name:<16}" + "".join(f"{100 * s.mean():>20.1f}" for s in experts[name]))
        worst: list[tuple[float, float]] = []
        for c in arguments.coefficients:
            recipe = single_coefficient_recipe(sources, campaign.experts, c, layers, report.storage)
            scores = item_scores(worker, recipe, objectives, arguments.split)
            gaps = [
                shortfall(experts[name][index], scores[index], rng)
                for index, name in enumerate(campaign.experts)
            ]
            worst.append(max(gaps))
            row = "".join(f"{100 * s.mean():>20.1f}" for s in scores)
            print(f"all x {c:<10.2g}{row}   largest shortfall {100 * max(gaps)[0]:5.1f} points", end="")
            print(f" (95 % lower bound {100 * max(gaps)[1]:.1f})")
    least = min(worst)
    print(
        f"least of the largest shortfalls: {100 * least[0]:.1f} points, lower bound {100 * least[1]:.1f}"
    )


if __name__ == "__main__":
    main()
