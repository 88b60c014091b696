r"""What does an evaluation buy? Optimizers against each other at equal cost, on test items, over seeds.

Each arm is an optimizer in a search space. A campaign runs to each cost in turn (gradients counted) and goes
on from there, but where gradients are learned from: a lesson is planned by the budget that a campaign begins
with, so there each cost is a campaign of its own. The front, chosen on selection items, is scored on test
items. Hypervolume is that of the campaign's scaling and reference point. Runs, evaluations by key (which all
share) and scores of test items by recipe are kept in the folder, so that the script can be stopped and go on.

    python benchmarks/sample_efficiency.py experiments/quickstart/campaign.yaml \
        --out runs/sample_efficiency --arms auto-tensors nsga2-layers --costs 50 100 200 --seeds 20 21 22
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from front_quality import Judge, measure
from test_scores import open_worker

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.file import BaselinesSection, OptimizerSection
from evomerge.optimizers.stage import LEARNING
from evomerge.run.driver import run
from evomerge.search_space import load_search_space

SPACES = Path(__file__).resolve().parent.parent / "search_spaces"


@dataclass(frozen=True)
class Arm:
    """An optimizer in a search space."""

    kind: str
    space: str
    population: int = 24
    options: tuple[tuple[str, str | float], ...] = ()


ARMS = {
    "auto-layers": Arm("auto", "task_arithmetic_layers", 8),
    "auto-tensors": Arm("auto", "task_arithmetic_tensors", 8),
    "auto-rows": Arm("auto", "task_arithmetic_rows", 8),
    "learned-front-layers": Arm("learned-front", "task_arithmetic_layers", 8),
    "learned-front-tensors": Arm("learned-front", "task_arithmetic_tensors", 8),
    "learned-front-rows": Arm("learned-front", "task_arithmetic_rows", 8),
    "surrogate-model": Arm("surrogate", "task_arithmetic_model", 8),
    "surrogate-layers": Arm("surrogate", "task_arithmetic_layers", 8),
    "surrogate-tensors": Arm("surrogate", "task_arithmetic_tensors", 8),
    "nsga2-model": Arm("nsga2", "task_arithmetic_model"),
    "nsga2-layers": Arm("nsga2", "task_arithmetic_layers"),
    "nsga2-tensors": Arm("nsga2", "task_arithmetic_tensors"),
    "nsga2-standard": Arm(
        "nsga2", "task_arithmetic_layers", 40, (("start", "random"), ("operators", "standard"))
    ),
    "random-global": Arm("random", "task_arithmetic_model"),
    "random-layers": Arm("random", "task_arithmetic_layers"),
    "cma-es-layers": Arm("cma-es", "task_arithmetic_layers", 8),
    "qlognehvi-layers": Arm("qlognehvi", "task_arithmetic_layers", 8),
    "mmmo-layers": Arm("mmmo", "task_arithmetic_layers", 8),
}
"""Arms by name; `random-global` is one coefficient per expert."""


def with_arm(campaign: Campaign, arm: Arm, seed: int, cost: int) -> Campaign:
    """The campaign with an arm's optimizer and space, a seed and a budget."""
    optimizer = OptimizerSection(kind=arm.kind, population=arm.population, options=dict(arm.options))
    budget = campaign.config.budget.model_copy(update={"evaluations": cost})
    changes = {"seed": seed, "optimizer": optimizer, "budget": budget}
    file = SPACES / f"{arm.space}.yaml"
    config = campaign.config.model_copy(update=changes)
    return replace(campaign, config=config, space=load_search_space(file), space_file=file)


def measure_arm(
    campaign: Campaign,
    name: str,
    seed: int,
    costs: list[int],
    report: CheckReport,
    judge: Judge,
    out: Path,
) -> list[dict[str, Any]]:
    """One row for each cost."""
    rows = []
    for cost in costs:
        changed = with_arm(campaign, ARMS[name], seed, cost)
        folder = out / (f"{name}-{seed}-{cost}" if ARMS[name].kind in LEARNING else f"{name}-{seed}")
        kept = folder / f"row-{cost}.json"
        if not kept.exists():
            began = time.process_time()
            history = run(changed, folder, report.paths, report.storage)
            row = measure(changed, history, report, judge, folder)
            row |= {"arm": name, "seed": seed, "cost": cost, "spent": history.cost}
            row |= {"slopes": history.slope_cost, "driver_cpu_s": time.process_time() - began}
            kept.write_text(json.dumps(row))
        rows.append(json.loads(kept.read_text()))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def report_table(rows: list[dict[str, Any]], first: str) -> None:
    """Medians over seeds and ratios of the first arm's hypervolume to the others', seed by seed.

    Beside the median hypervolume, that of the ends of its 95 % intervals over resampled test items.
    """
    costs = sorted({row["cost"] for row in rows})
    by_arm: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"], row["cost"]] = row
    print(
        "\nhypervolume on test items, median over seeds (best mean, named on selection items);"
        f" {first} over it"
    )
    print(f"{'arm':<24}" + "".join(f"{f'cost {cost}':>40}" for cost in costs))
    for name, found in by_arm.items():
        line = f"{name:<24}"
        for cost in costs:
            own = [row for (_, c), row in found.items() if c == cost]
            ratios = [
                by_arm[first][seed, c]["hypervolume"] / row["hypervolume"]
                for (seed, c), row in found.items()
                if c == cost and (seed, c) in by_arm[first]
            ]
            volume = np.median([row["hypervolume"] for row in own])
            mean = 100 * np.median([row["best_member_mean"] for row in own])
            low, high = np.median([row["hypervolume_interval"] for row in own], axis=0)
            ends = f"[{low:.2f}, {high:.2f}]"
            line += f"{f'{volume:.3f} {ends} ({mean:.1f}) x {np.median(ratios):.3f}':>40}"
        print(line)
    for name, found in by_arm.items():
        last = [row for (_, cost), row in found.items() if cost == costs[-1]]
        sure = [f"{row['single']['surely']}/{row['uniform']['surely']}" for row in last]
        print(
            f"{name}: members that dominate best single coefficient/uniform with P >= 0.95: {', '.join(sure)}"
        )


def main() -> None:
    """Run arms and seeds, print rows as they come and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["auto-tensors", "nsga2-layers"])
    parser.add_argument("--costs", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    arguments = parser.parse_args()
    campaign = load_campaign(arguments.campaign)
    baselines = BaselinesSection(single=[0.6, 0.7, 0.8, 0.9, 1.0])
    results = campaign.config.results or str((arguments.out / "results").resolve())
    config = campaign.config.model_copy(update={"baselines": baselines, "results": results})
    campaign = replace(campaign, config=config)
    report = check_campaign(campaign)
    report.raise_problems()
    arguments.out.mkdir(parents=True, exist_ok=True)
    worker = open_worker(campaign, report.paths, report.storage, arguments.out / "cache")
    judge = Judge(worker, campaign, arguments.out / "test_items.json")
    rows = []
    for seed in arguments.seeds:
        for name in arguments.arms:
            rows += measure_arm(campaign, name, seed, arguments.costs, report, judge, arguments.out)
    report_table(rows, arguments.arms[0])


if __name__ == "__main__":
    main()
