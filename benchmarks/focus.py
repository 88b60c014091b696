r"""Does a focus help who ships one model? The same budget with and without one, judged on test items.

For each preference and seed: of a campaign without a focus and of one with it the member that `prefer:` picks
(on selection items), and on test items its augmented Chebyshev value for that preference in the campaign's
scaling (less is better) and its weighted mean. Each campaign is run by `sample_efficiency`'s arm.

    python benchmarks/focus.py experiments/quickstart/campaign.yaml --out runs/focus
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from front_quality import Judge
from sample_efficiency import ARMS, with_arm
from test_scores import open_worker

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.campaign.prepared import prepared_space
from evomerge.front.compute import compute_front
from evomerge.front.front import pick
from evomerge.ledger.history import ITEMS_FOLDER
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.pareto import chebyshev
from evomerge.objectives.preference import preference
from evomerge.run.driver import run


def picked(
    campaign: Campaign, report: CheckReport, judge: Judge, folder: Path, stated: str
) -> tuple[float, float, int]:
    """Chebyshev value and weighted mean on test items of the pick for a preference; members of the front."""
    history = run(campaign, folder, report.paths, report.storage)
    assert history.prepared is not None
    front = compute_front(history, ItemStore(folder / ITEMS_FOLDER))
    member = pick(front, f"prefer:{stated}")
    space = prepared_space(campaign, history.prepared, report.paths)
    means = np.array(
        [
            items.mean()
            for items in judge.items(space.decode(history.candidates[member.id].genome or ()))
        ]
    )
    signs = np.array([objective.sign for objective in campaign.objectives])
    weights = np.array(preference(campaign.objectives, stated))
    scaled = front.scaling.scale((signs * means)[None])[0]
    return float(chebyshev(scaled, weights)), float(weights @ means), len(front.members)


def main() -> None:
    """Print a line for each preference and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", choices=ARMS, default="auto-tensors")
    parser.add_argument("--cost", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21])
    parser.add_argument(
        "--preferences", nargs="+", help="default: each objective at 0.6, the others alike"
    )
    arguments = parser.parse_args()
    campaign = load_campaign(arguments.campaign)
    if campaign.config.results is None:
        results = {"results": str((arguments.out / "results").resolve())}
        campaign = replace(campaign, config=campaign.config.model_copy(update=results))
    report = check_campaign(campaign)
    report.raise_problems()
    arguments.out.mkdir(parents=True, exist_ok=True)
    worker = open_worker(campaign, report.paths, report.storage, arguments.out / "cache")
    judge = Judge(worker, campaign, arguments.out / "test_items.json")
    names = [objective.metric for objective in campaign.objectives]
    rest = 0.4 / max(1, len(names) - 1)
    foremost = [",".join(f"{n}={0.6 if n == first else rest:g}" for n in names) for first in names]
    print(
        "preference, seed: Chebyshev value (less is better), weighted mean, members; without, with a focus"
    )
    for seed in arguments.seeds:
        plain = with_arm(campaign, ARMS[arguments.arm], seed, arguments.cost)
        for number, stated in enumerate(arguments.preferences or foremost):
            focus = {"focus": dict(zip(names, preference(campaign.objectives, stated), strict=True))}
            optimizer = plain.config.optimizer.model_copy(update=focus)
            changed = replace(plain, config=plain.config.model_copy(update={"optimizer": optimizer}))
            cells = [
                picked(each, report, judge, arguments.out / f"{arguments.arm}-{seed}{name}", stated)
                for each, name in ((plain, ""), (changed, f"-focus-{number}"))
            ]
            (a, b, c), (d, e, f) = cells
            print(f"{stated}, {seed}: {a:.4f} {100 * b:.2f} {c}; {d:.4f} {100 * e:.2f} {f}", flush=True)


if __name__ == "__main__":
    main()
