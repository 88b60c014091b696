r"""How much does a search flatter itself? Its front on all three splits, with fewer search items.

For each number of search items a task the data of the campaign's evaluators is cut to as many, and each
arm of `sample_efficiency.py` searches to the same cost in evaluations of what is left. Its front, chosen
on selection items, is then looked at on search, selection and test items.

    python benchmarks/overfitting.py experiments/quickstart/campaign.yaml --out runs/overfitting \
        --arms auto-tensors auto-rows --items 50 100 300 --cost 50 --seeds 20 21
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from front_quality import Judge
from sample_efficiency import ARMS, with_arm
from test_scores import open_worker

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.front.compute import compute_front
from evomerge.front.front import Front
from evomerge.ledger.history import ITEMS_FOLDER
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.pareto import hypervolume
from evomerge.run.driver import run

SPLITS = ("search", "selection", "test")


def with_fewer_items(campaign_file: Path, items: int, folder: Path) -> Path:
    """A copy of a campaign and its evaluators in `folder` whose search data has `items` lines a file.

    Raises:
        ValueError: if a search file has fewer.
    """
    data = yaml.safe_load(campaign_file.read_text())
    beside = campaign_file.resolve().parent
    for source in (data["base"], *data["experts"].values()):
        source["path"] = str(beside / source["path"])
    data["search_space"] = str(beside / data["search_space"])
    copies = []
    for evaluator in (beside / name for name in data["evaluators"]):
        copy = folder / "evaluators" / evaluator.resolve().parent.name
        if not copy.exists():
            shutil.copytree(evaluator.parent, copy)
            for file in copy.rglob("*_search.jsonl"):
                lines = file.read_text().splitlines(keepends=True)
                if len(lines) < items:
                    raise ValueError(f"{file}: {len(lines)} items, not {items}")
                file.write_text("".join(lines[:items]))
        copies.append(str((copy / evaluator.name).resolve()))
    data["evaluators"] = copies
    data["workers"] = {"pool": "inline"}
    written = folder / "campaign.yaml"
    written.write_text(yaml.safe_dump(data, sort_keys=False))
    return written


@dataclass(frozen=True)
class Seen:
    """A front on one split.

    Attributes:
        hypervolume: by the scaling of the front, of all members.
        members: mean over the members of their mean over objectives.
        best: that of the member with the best mean on selection items.
    """

    hypervolume: float
    members: float
    best: float


def seen(front: Front, values: np.ndarray, signs: Sequence[int], best: int) -> Seen:
    """What a front is on a split, from its members' metrics [members, objectives]."""
    means = values.mean(axis=1)
    scaled = front.scaling.scale(values * np.array(signs))
    return Seen(hypervolume(scaled), float(means.mean()), float(means[best]))


def measure(
    campaign: Campaign, name: str, seed: int, cost: int, report: CheckReport, judge: Judge, folder: Path
) -> dict[str, Any]:
    """One run: split to what its front is there."""
    changed = with_arm(campaign, ARMS[name], seed, cost)
    history = run(changed, folder, report.paths, report.storage)
    assert history.prepared is not None
    space = prepared_space(changed, history.prepared, report.paths)
    front = compute_front(history, ItemStore(folder / ITEMS_FOLDER))
    metrics = [str(objective.metric) for objective in campaign.objectives]
    signs = [objective.sign for objective in campaign.objectives]
    best = min(range(len(front.members)), key=lambda number: sum(front.members[number].scaled))
    found = {}
    for split in SPLITS:
        if split == "test":
            recipes = [space.decode(history.candidates[m.id].genome or ()) for m in front.members]
            rows = [[float(items.mean()) for items in judge.items(recipe)] for recipe in recipes]
        else:
            rows = [[m.metrics[split][metric].value for metric in metrics] for m in front.members]
        found[split] = vars(seen(front, np.array(rows), signs, best))
    return found


def main() -> None:
    """Run all, print rows as they come and the table of medians over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["auto-tensors", "auto-rows"])
    parser.add_argument("--items", type=int, nargs="+", default=[50, 100, 300])
    parser.add_argument("--cost", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    arguments = parser.parse_args()
    table: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for items in arguments.items:
        folder = arguments.out / f"items-{items}"
        folder.mkdir(parents=True, exist_ok=True)
        campaign = load_campaign(with_fewer_items(arguments.campaign, items, folder))
        report = check_campaign(campaign)
        report.raise_problems()
        worker = open_worker(campaign, report.paths, report.storage, folder / "cache")
        judge = Judge(worker, campaign, arguments.out / "test_items.json")
        for seed in arguments.seeds:
            for name in arguments.arms:
                kept = folder / f"{name}-{seed}.json"
                if not kept.exists():
                    own = folder / f"{name}-{seed}"
                    found = measure(campaign, name, seed, arguments.cost, report, judge, own)
                    kept.write_text(json.dumps(found))
                row = json.loads(kept.read_text())
                print(json.dumps({"arm": name, "items": items, "seed": seed, **row}), flush=True)
                table.setdefault((name, items), []).append(row)
    print("\nmedians over seeds: hypervolume; mean of the members; of the best on selection items")
    print(f"{'arm':<24}{'items':>6}" + "".join(f"{split:>24}" for split in SPLITS))
    for (name, items), rows in table.items():
        line = f"{name:<24}{items:>6}"
        for split in SPLITS:
            each = {key: np.median([row[split][key] for row in rows]) for key in rows[0][split]}
            text = f"{each['hypervolume']:.3f} {100 * each['members']:.1f} {100 * each['best']:.1f}"
            line += f"{text:>24}"
        print(line)


if __name__ == "__main__":
    main()
