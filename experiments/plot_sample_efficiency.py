"""A picture of `benchmarks/sample_efficiency.py`: what each search had at what cost, over seeds.

    python experiments/plot_sample_efficiency.py runs/sample_efficiency --out docs

Left, the hypervolume on search items after each evaluation (median over the seeds that went furthest), which
flatters; right, that on test items of the front chosen on selection items, where it was measured. The numbers
of the right panel go beside the picture as `sample_efficiency.csv`; what this has already of other seeds and
costs stays in it and in the picture. Needs matplotlib, which pymoo brings.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from evomerge.front.trace import trace
from evomerge.ledger.history import History
from evomerge.ledger.ledger import read_events

COLUMNS = (
    "arm", "seed", "cost", "spent", "slopes", "members", "hypervolume", "low", "high", "best_member_mean",
    "surely_over_single", "surely_over_uniform",
)  # fmt: skip
"""Of the csv. `low` and `high` end a 95 % interval over test items, the last two count members; older rows
have nothing there."""

WHOLE = {"seed", "cost", "members", "surely_over_single", "surely_over_uniform"}


def measured(folder: Path, earlier: Path) -> list[dict[str, Any]]:
    """The rows that the benchmark kept, by arm, seed and cost, and those of a file that it has not."""
    rows: list[dict[str, Any]] = []
    if earlier.exists():
        with earlier.open(newline="") as file:
            for row in csv.DictReader(file):
                known = {name: text for name, text in row.items() if text and name != "arm"}
                numbers = {
                    name: (int if name in WHOLE else float)(text) for name, text in known.items()
                }
                rows.append({"arm": row["arm"], **numbers})
    rows += [_flat(json.loads(file.read_text())) for file in folder.glob("*/row-*.json")]
    newest = {(row["arm"], row["seed"], row["cost"]): row for row in rows}
    return [newest[key] for key in sorted(newest)]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["hypervolume_interval"]
    sure = {f"surely_over_{name}": row[name]["surely"] for name in ("single", "uniform")}
    return row | {"low": low, "high": high} | sure


def curve(folder: Path, arm: str, seed: int, cost: int, costs: np.ndarray) -> np.ndarray | None:
    """Float64 [costs]: hypervolume on search items once so much was spent; NaN before the first result.

    None without the run.
    """
    runs = [folder / f"{arm}-{seed}-{cost}", folder / f"{arm}-{seed}"]
    run = next((run for run in runs if run.exists()), None)
    if run is None:
        return None
    events = read_events(run / "ledger.jsonl")
    history = History()
    for event in events:
        history.apply(event)
    points = trace(history, events, history.stated.objectives)
    spent = np.array([point.evaluations for point in points])
    known = np.array([np.nan, *(point.hypervolume for point in points)])
    found: np.ndarray = known[np.searchsorted(spent, costs, side="right")]
    found[costs > spent[-1] + 1.0] = np.nan
    return found


def draw(folder: Path, rows: list[dict[str, Any]], file: Path) -> None:
    """Both panels, one colour for each arm, in the order of what they reach on test items."""
    runs: dict[str, dict[int, int]] = defaultdict(dict)
    on_test: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        furthest = runs[row["arm"]].get(row["seed"], 0)
        runs[row["arm"]][row["seed"]] = max(furthest, row["cost"])
        on_test[row["arm"]][row["cost"]].append(row["hypervolume"])
    arms = sorted(runs, key=lambda arm: float(np.median(on_test[arm][min(on_test[arm])])))
    costs = np.arange(1.0, max(row["cost"] for row in rows) + 1.0)
    figure, (search, test) = plt.subplots(1, 2, figsize=(11, 4.8))
    for place, arm in enumerate(arms):
        colour = plt.get_cmap("tab20")(place % 20)
        most = max(runs[arm].values())
        seeds = sorted(seed for seed, cost in runs[arm].items() if cost == most)
        found = [curve(folder, arm, seed, most, costs) for seed in seeds]
        curves = np.array([each for each in found if each is not None])
        if len(curves):
            shown = np.isfinite(curves).all(axis=0)
            search.plot(costs[shown], np.median(curves[:, shown], axis=0), color=colour)
        for cost, values in on_test[arm].items():
            size = 12.0 + 0.5 * cost
            test.scatter(values, [place] * len(values), s=size, color=colour, alpha=0.8)
            test.plot([np.median(values)] * 2, [place - 0.35, place + 0.35], color=colour)
    search.set(
        title="on search items, colours as on the right",
        xlabel="cost, evaluations",
        ylabel="hypervolume",
    )
    stated = ", ".join(str(cost) for cost in sorted({row["cost"] for row in rows}))
    test.set(title=f"on test items, cost {stated}; bars: medians", xlabel="hypervolume")
    test.set_yticks(range(len(arms)), arms, fontsize="small")
    test.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    # The same rows give the same file.
    mpl.rcParams["svg.hashsalt"] = file.name
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Write the picture and its numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    words = parser.parse_args()
    beside = words.out / "sample_efficiency.csv"
    rows = measured(words.folder, beside)
    with beside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            shown = [row.get(name, "") for name in COLUMNS]
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in shown])
    draw(words.folder, rows, words.out / "sample_efficiency.svg")


if __name__ == "__main__":
    main()
