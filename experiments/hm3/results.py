r"""Pictures and numbers of the study in this folder, all from its ledgers.

    evomerge study run experiments/hm3/campaign.yaml --arms experiments/hm3/arms.yaml --seeds 5 --dir runs/hm3
    python experiments/hm3/results.py runs/hm3 --out docs

`hm3_study.svg`: hypervolume on held-out items of each arm's front, a dot a seed, with Student's 95 %
interval, beside that of the baselines (experts, averages, the best single coefficient), and hypervolume on
search items against evaluations; `hm3_study.csv` has the dots, and how far from
layers in order paths were. `hm3_learning.svg`: what HM3's policy learnt,
from a replay of its campaigns: no number of it is in a ledger, but a fresh policy that is told what a ledger
holds learns the same. `hm3_learning.csv` has what that shows. `--learning` names another study for that,
`--analytic EVALUATIONS` adds curves on the problem of `benchmarks/paths.py`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.paths import edits, path_problem
from evomerge.campaign.campaign import campaign_from_json
from evomerge.campaign.prepared import prepared_baselines, prepared_space
from evomerge.campaign.recorded import recorded_space
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.front.trace import trace
from evomerge.ledger.history import ITEMS_FOLDER
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.objective import Scaling
from evomerge.objectives.pareto import hypervolume
from evomerge.optimizers.hm3 import Hm3
from evomerge.optimizers.path_policy import Update
from evomerge.optimizers.proposals import Proposals
from evomerge.run.replay import campaign_optimizer, refiners, replay, seeds
from evomerge.run.standing import phase_of
from evomerge.run.study.table import estimate, study_table

SHOWN = (
    ("reward", "mean reward"),
    ("explained", "variance of returns foreseen"),
    ("steps", "layers of a walk"),
)


def updates(folder: Path) -> list[Update]:
    """What the policy of a campaign of `hm3` learnt, by a replay of its ledger."""
    opened = open_campaign_folder(folder)
    history = opened.history
    assert history.prepared is not None
    campaign = campaign_from_json(history.config)
    paths = dict.fromkeys(history.prepared.checkpoints, "")
    space = prepared_space(campaign, history.prepared, paths)
    recipes = prepared_baselines(campaign, history.prepared, paths, history.candidates)
    initial = list(seeds(campaign, space, recipes, history))
    optimizer = campaign_optimizer(campaign, space, initial, history)
    refine = refiners(campaign, space, initial, history, optimizer)
    for _ in replay(optimizer, refine, history, campaign.objectives, ItemStore(folder / ITEMS_FOLDER)):
        pass
    return learnt(optimizer)


def learnt(optimizer: Any) -> list[Update]:
    """The updates of an optimizer that is HM3's."""
    assert isinstance(optimizer, Proposals)
    assert isinstance(optimizer.proposing, Hm3)
    return optimizer.proposing.updates


def analytic(evaluations: int, seed: int) -> list[Update]:
    """The same on the analytic problem of `benchmarks/paths.py`."""
    optimizer, outcome = path_problem("hm3", seed)
    told = 0
    while told < evaluations:
        outcomes = [outcome(genome) for genome in optimizer.ask()]
        optimizer.tell(outcomes)
        told += len(outcomes)
    return learnt(optimizer)


def learning(curves: dict[str, list[list[Update]]], out: Path) -> None:
    """The picture and the table of learning curves: by problem, a list of updates for each seed."""
    with (out / "hm3_learning.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["problem", "run", "update", *(field.name for field in fields(Update))])
        for name, runs in curves.items():
            for number, run in enumerate(runs):
                for turn, update in enumerate(run, 1):
                    numbers = [f"{value:.6g}" for value in asdict(update).values()]
                    writer.writerow([name, number, turn, *numbers])
    figure, panels = plt.subplots(
        len(curves), len(SHOWN), figsize=(11, 2.9 * len(curves)), squeeze=False
    )
    for row, (name, runs) in zip(panels, curves.items(), strict=True):
        for panel, (field, words) in zip(row, SHOWN, strict=True):
            longest = min(len(run) for run in runs)
            values = np.array([[getattr(update, field) for update in run[:longest]] for run in runs])
            turns = np.arange(1, longest + 1)
            panel.plot(turns, values.T, color="0.75", linewidth=0.8)
            panel.plot(turns, values.mean(axis=0), color="C0", linewidth=2.0)
            panel.set(title=f"{name}: {words}", xlabel="update of the networks")
            panel.title.set_fontsize(9)
            if field == "explained":
                panel.set_ylim(-1.0, 1.0)
    figure.tight_layout()
    save(figure, out / "hm3_learning.svg")


def of_baselines(opened: OpenedFolder, scaling: Scaling) -> float:
    """Hypervolume of a campaign's baselines alone, on the items that decide."""
    front = opened.front()
    values = [
        [o.sign * each.metrics[front.split][o.metric].value for o in front.objectives]
        for each in front.references
    ]
    return hypervolume(scaling.scale(np.array(values)))


def without_paths(opened: OpenedFolder, scaling: Scaling) -> tuple[float, float]:
    """Hypervolume of all that was scored on selection items, and of those whose layers are in order."""
    space = recorded_space(opened.history)
    values, plain = [], []
    for each in opened.history.candidates.values():
        found = each.evaluations.get("selection")
        if found is not None and each.genome is not None:
            objectives = opened.history.stated.objectives
            values.append([o.sign * found.metrics[o.metric].value for o in objectives])
            plain.append(space.decode(each.genome).is_identity_path(space.layout.layers))
    scaled = scaling.scale(np.array(values))
    return hypervolume(scaled), hypervolume(scaled[np.array(plain)])


def apart(opened: OpenedFolder) -> tuple[float, float]:
    """Edits from all layers in order of the nearest source, and layers: means of all that was searched."""
    space = recorded_space(opened.history)
    count = space.layout.layers
    found = []
    for each in opened.history.candidates.values():
        if each.genome is not None:
            path = [(step.source, step.layer) for step in space.decode(each.genome).path]
            orders = ([(name, at) for at in range(count)] for name in {source for source, _ in path})
            found.append((min(edits(path, order) for order in orders), len(path)))
    means = np.mean(found, axis=0)
    return float(means[0]), float(means[1])


def comparison(study: Path, out: Path) -> None:
    """The picture of the study, and its rows."""
    table = study_table(study)
    done = [row for row in table.rows if row.phase == "done"]
    with (out / "hm3_study.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["hypervolume", "best_mean", "edits", "layers"]
        writer.writerow(["arm", "seed", "split", "evaluations", *names])
        for row in done:
            far = apart(open_campaign_folder(study / "runs" / f"{row.arm}-{row.seed}"))
            numbers = [f"{value:.6g}" for value in (row.hypervolume, row.best_mean, *far)]
            writer.writerow([row.arm, row.seed, row.split, row.evaluations, *numbers])
    names = [arm.arm for arm in table.arms]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for place, arm in enumerate(table.arms):
        own = [row.hypervolume for row in done if row.arm == arm.arm]
        left.scatter([place] * len(own), own, color=f"C{place}", s=18, alpha=0.6)
        found = arm.measures.get("hypervolume")
        if found is not None and found.low is not None and found.high is not None:
            error = [[found.mean - found.low], [found.high - found.mean]]
            left.errorbar([place], [found.mean], error, fmt="_", color="black", capsize=5)
    left.set_xticks(range(len(names)), names, rotation=20)
    left.set(title="front on held-out items", ylabel="hypervolume")
    scaling = None
    for place, name in enumerate(names):
        curves, added = [], []
        for folder in sorted((study / "runs").glob(f"{name}-[0-9]*")):
            opened = open_campaign_folder(folder)
            if scaling is None:
                scaling = opened.history.scaling
                assert scaling is not None
                alone = of_baselines(opened, scaling)
                left.axhline(alone, color="0.6", linestyle=":", linewidth=1.2)
                left.annotate("baselines", (len(names) - 1, alone), va="bottom", ha="right", fontsize=8)
            if name.startswith(("both", "learned-")) and phase_of(opened.history) == "done":
                whole, plain = without_paths(opened, scaling)
                added.append(whole - plain)
            points = trace(opened.history, opened.events, opened.history.stated.objectives, scaling)
            curves.append([point.hypervolume for point in points])
        if added:
            mean = estimate(added)
            print(f"{name}: paths added {mean.mean:+.4f} [{mean.low}, {mean.high}] to its merges")
        curves = [curve for curve in curves if curve]
        if curves:
            length = min(map(len, curves))
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            right.plot(range(1, length + 1), mean, color=f"C{place}", label=f"{name} ({len(curves)})")
    right.set(title="search items, mean of the seeds", xlabel="evaluations", ylabel="hypervolume")
    right.legend(fontsize=8)
    figure.tight_layout()
    save(figure, out / "hm3_study.svg")
    print(f"baselines alone {alone:.4f}")


def save(figure: Any, file: Path) -> None:
    """As SVG that is the same again."""
    mpl.rcParams["svg.hashsalt"] = file.name
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Write pictures and numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--learning", type=Path, metavar="STUDY", help="whose policies are drawn")
    parser.add_argument("--analytic", type=int, default=0, metavar="EVALUATIONS")
    words = parser.parse_args()
    comparison(words.study, words.out)
    learning_from = words.learning or words.study
    rows = study_table(learning_from).rows
    done = sorted(row.seed for row in rows if row.arm == "path-hm3" and row.phase == "done")
    curves = {}
    if done:
        curves["quickstart"] = [updates(learning_from / "runs" / f"path-hm3-{seed}") for seed in done]
    if words.analytic:
        curves["analytic"] = [analytic(words.analytic, seed) for seed in range(5)]
    if curves:
        learning(curves, words.out)


if __name__ == "__main__":
    main()
