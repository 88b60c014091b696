"""Is the front worth having? Against experts, averages and random search, on test items, over seeds.

For each seed three searches with the same budget: the campaign as it is; random search in the same space;
random search over one coefficient per expert. The fronts (chosen on selection items) and the baselines
(the best single coefficient chosen on search items) are then scored on test items.

    python benchmarks/front_quality.py experiments/quickstart/campaign.yaml --out runs/front_quality
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from test_scores import item_scores, open_worker

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.file import BaselinesSection, OptimizerSection
from evomerge.campaign.prepared import prepared_baselines, prepared_space
from evomerge.front.compute import compute_front
from evomerge.front.statistics import (
    hypervolume_interval,
    paired_bootstrap_of_mean,
    probability_dominates,
)
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.pareto import dominates, hypervolume
from evomerge.run.driver import run
from evomerge.run.worker import Worker
from evomerge.search_space import load_search_space

SURE = 0.95


@dataclass(frozen=True)
class Arm:
    """One way to search; `space` replaces the campaign's search space if given."""

    name: str
    optimizer: OptimizerSection | None = None
    space: Path | None = None


def arms(campaign: Campaign) -> list[Arm]:
    """The campaign's own search and the two random baselines."""
    random = OptimizerSection(kind="random", population=campaign.config.optimizer.population)
    folder = Path(__file__).resolve().parent.parent / "search_spaces"
    return [
        Arm("search"),
        Arm("random, same space", random),
        Arm("random, one per expert", random, folder / "task_arithmetic_model.yaml"),
    ]


def with_arm(campaign: Campaign, arm: Arm, seed: int) -> Campaign:
    """The campaign with an arm's optimizer and space, and a seed."""
    changes: dict[str, Any] = {"seed": seed, "name": f"{campaign.config.name}-{seed}"}
    if arm.optimizer is not None:
        changes["optimizer"] = arm.optimizer
    changed = replace(campaign, config=campaign.config.model_copy(update=changes))
    if arm.space is not None:
        changed = replace(changed, space=load_search_space(arm.space), space_file=arm.space)
    return changed


class Judge:
    """Scores on test items, each recipe once; kept in a file so that the script can go on."""

    def __init__(self, worker: Worker, campaign: Campaign, file: Path) -> None:
        self.worker, self.campaign, self.file = worker, campaign, file
        self.known = json.loads(file.read_text()) if file.exists() else {}

    def items(self, recipe: Any) -> list[np.ndarray]:
        """Per objective float64 [items]."""
        if recipe.digest not in self.known:
            arrays = item_scores(self.worker, recipe, self.campaign.objectives, "test")
            self.known[recipe.digest] = [array.tolist() for array in arrays]
            self.file.write_text(json.dumps(self.known))
        return [np.array(values) for values in self.known[recipe.digest]]


def measure(
    campaign: Campaign, history: History, report: CheckReport, judge: Judge, folder: Path
) -> dict[str, Any]:
    """Everything said about one run, on test items."""
    assert history.prepared is not None
    assert history.baselines is not None
    space = prepared_space(campaign, history.prepared, report.paths)
    front = compute_front(history, ItemStore(folder / ITEMS_FOLDER))
    signs = [objective.sign for objective in campaign.objectives]
    recipes = prepared_baselines(campaign, history.prepared, report.paths, history.candidates)
    members = {
        member.id: judge.items(space.decode(history.candidates[member.id].genome or ()))
        for member in front.members
    }
    base = {name: judge.items(recipes[name]) for name in history.reference_ids()}
    values = np.array(
        [[s * a.mean() for s, a in zip(signs, arrays, strict=True)] for arrays in members.values()]
    )
    scaled = front.scaling.scale(values)
    stacked = [np.array([arrays[k] for arrays in members.values()]) for k in range(len(signs))]
    interval = hypervolume_interval(stacked, signs, front.scaling, seed=0)
    best_expert = max(campaign.experts, key=lambda name: np.mean([a.mean() for a in base[name]]))
    # The best member is named by its mean on selection items, then judged on test items.
    best = min(front.members, key=lambda m: sum(m.scaled)).id
    gain = paired_bootstrap_of_mean(members[best], base[best_expert], seed=0)
    found: dict[str, Any] = {
        "members": len(members),
        "hypervolume": hypervolume(scaled),
        "hypervolume_interval": [interval.low, interval.high],
        "best_expert": best_expert,
        "best_expert_mean": float(np.mean([a.mean() for a in base[best_expert]])),
        "best_member_mean": float(np.mean([a.mean() for a in members[best]])),
        "gain": [gain.difference, gain.low, gain.high, gain.probability_greater],
    }
    for name in ("uniform", history.baselines.single):
        other = np.array([s * a.mean() for s, a in zip(signs, base[name], strict=True)])
        sure = [probability_dominates(arrays, base[name], signs, seed=0) for arrays in members.values()]
        found["uniform" if name == "uniform" else "single"] = {
            "name": name,
            "dominated_by": sum(dominates(row, other) for row in values),
            "surely": sum(p >= SURE for p in sure),
            "highest_probability": max(sure),
        }
    return found


def main() -> None:
    """Run all arms and seeds, print the table; the folder keeps runs, so it can be stopped and go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[20, 21, 22, 23, 24])
    parser.add_argument("--evaluations", type=int, help="budget of each run instead of the campaign's")
    parser.add_argument("--single", type=float, nargs="*", help="single coefficients to choose from")
    arguments = parser.parse_args()
    campaign = load_campaign(arguments.campaign)
    report = check_campaign(campaign)
    report.raise_problems()
    arguments.out.mkdir(parents=True, exist_ok=True)
    budget = campaign.config.budget
    if arguments.evaluations:
        budget = budget.model_copy(update={"evaluations": arguments.evaluations})
    baselines = BaselinesSection(single=arguments.single or campaign.config.baselines.single)
    config = campaign.config.model_copy(update={"budget": budget, "baselines": baselines})
    campaign = replace(campaign, config=config)
    worker = open_worker(campaign, report.paths, report.storage, arguments.out / "cache")
    judge = Judge(worker, campaign, arguments.out / "test_items.json")
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for arm in arms(campaign):
            changed = with_arm(campaign, arm, seed)
            folder = arguments.out / f"{arm.name.replace(', ', '-').replace(' ', '-')}-{seed}"
            history = run(changed, folder, report.paths, report.storage)
            row = measure(changed, history, report, judge, folder)
            rows.setdefault(arm.name, []).append(row)
            print(json.dumps({"seed": seed, "arm": arm.name, **row}), flush=True)
    report_table(rows)


def report_table(rows: dict[str, list[dict[str, Any]]]) -> None:
    """The summary over seeds, on test items."""
    print(f"\n{'arm':<26}{'hypervolume (min to max)':>30}{'ratio to search':>18}")
    own = np.array([row["hypervolume"] for row in rows["search"]])
    for name, found in rows.items():
        values = np.array([row["hypervolume"] for row in found])
        spread = f"{values.mean():.4f} ({values.min():.4f} to {values.max():.4f})"
        print(f"{name:<26}{spread:>30}{(own / values).mean():>18.3f}")
    for row in rows["search"]:
        gain = row["gain"]
        print(
            f"best member {100 * row['best_member_mean']:.1f} against {row['best_expert']} "
            f"{100 * row['best_expert_mean']:.1f}: {100 * gain[0]:+.1f} points "
            f"[{100 * gain[1]:.1f}, {100 * gain[2]:.1f}], P(better) {gain[3]:.3f}; "
            + "; ".join(
                f"{row[key]['dominated_by']} of {row['members']} dominate {row[key]['name']} "
                f"({row[key]['surely']} with P >= {SURE}, highest {row[key]['highest_probability']:.3f})"
                for key in ("uniform", "single")
            )
        )


if __name__ == "__main__":
    main()
