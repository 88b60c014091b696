"""A picture of `benchmarks/sample_efficiency.py`: what each search had at what cost, over seeds.

    python experiments/plot_sample_efficiency.py runs/sample_efficiency --out docs/sample_efficiency

Left, the hypervolume on search items after each evaluation (median over the seeds that went furthest), which
flatters; right, that on test items of the front chosen on selection items, where it was measured. The numbers
of both go beside the picture, as `NAME.csv` and `NAME_curves.csv`. What these have already of other seeds,
costs and searches stays in them and in the picture, so that runs of several machines come together in one;
without a folder they are drawn as they are. Needs matplotlib, which pymoo brings.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""Of the rows. `low` and `high` end a 95 % interval over test items, the last two count members; older rows
have nothing there."""

NAMES = {"nsga2-standard": "pymoo's NSGA-II, layers", "random-global": "random, experts"}
PLACES = {"tensors": "matrices", "model": "experts"}

WHOLE = {"seed", "seeds", "cost", "members", "surely_over_single", "surely_over_uniform"}


@dataclass(frozen=True)
class Curve:
    """Of one search, the median over `seeds` seeds of the hypervolume on search items: [costs] of it each."""

    seeds: int
    costs: tuple[float, ...]
    values: tuple[float, ...]


def read_table(file: Path) -> list[dict[str, Any]]:
    """The lines of a csv, numbers as numbers, without what is empty; none if there is no file."""
    if not file.exists():
        return []
    found = []
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            known = {name: text for name, text in row.items() if text and name != "arm"}
            numbers = {name: (int if name in WHOLE else float)(text) for name, text in known.items()}
            found.append({"arm": row["arm"], **numbers})
    return found


def write_table(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """The other way round."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            shown = [row.get(name, "") for name in columns]
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in shown])


def measured(folder: Path | None, earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the benchmark kept, by arm, seed and cost, and earlier ones that it has not."""
    files = [] if folder is None else folder.glob("*/row-*.json")
    rows = [*earlier, *(_flat(json.loads(file.read_text())) for file in files)]
    newest = {(row["arm"], row["seed"], row["cost"]): row for row in rows}
    return [newest[key] for key in sorted(newest)]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["hypervolume_interval"]
    sure = {f"surely_over_{name}": row[name]["surely"] for name in ("single", "uniform")}
    return row | {"low": low, "high": high} | sure


def curves(
    folder: Path | None, rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]
) -> dict[str, Curve]:
    """By search, that of the runs at hand; the earlier one where it has more seeds."""
    found: dict[str, Curve] = {}
    for arm in dict.fromkeys(row["arm"] for row in earlier):
        own = [row for row in earlier if row["arm"] == arm]
        pairs = [(row["cost"], row["hypervolume"]) for row in own]
        found[arm] = Curve(own[0]["seeds"], *zip(*pairs, strict=True))
    for arm in dict.fromkeys(row["arm"] for row in rows if folder is not None):
        assert folder is not None
        most = max(row["cost"] for row in rows if row["arm"] == arm)
        costs = np.arange(1.0, most + 1.0)
        seeds = [row["seed"] for row in rows if row["arm"] == arm and row["cost"] == most]
        each = [_of_run(folder, arm, seed, most, costs) for seed in seeds]
        known = [values for values in each if values is not None]
        if known and (arm not in found or len(known) >= found[arm].seeds):
            found[arm] = _median(costs, np.array(known))
    return found


def _of_run(folder: Path, arm: str, seed: int, cost: int, costs: np.ndarray) -> np.ndarray | None:
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


def _median(costs: np.ndarray, values: np.ndarray) -> Curve:
    """Of [runs, costs], where all runs have one, without points on a level stretch."""
    shown = np.isfinite(values).all(axis=0)
    costs, medians = costs[shown], np.median(values[:, shown], axis=0)
    steps = np.diff(medians) != 0.0
    kept = np.concatenate([[True], steps]) | np.concatenate([steps, [True]])
    return Curve(len(values), tuple(costs[kept].tolist()), tuple(medians[kept].tolist()))


def draw(rows: Sequence[Mapping[str, Any]], known: Mapping[str, Curve], file: Path) -> None:
    """Both panels, one colour for each arm, in the order of what they reach on test items."""
    on_test: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        on_test[row["arm"]][row["cost"]].append(row["hypervolume"])
    arms = sorted(on_test, key=lambda arm: float(np.median(on_test[arm][min(on_test[arm])])))
    figure, (search, test) = plt.subplots(1, 2, figsize=(11, 4.8))
    for place, arm in enumerate(arms):
        colour = plt.get_cmap("tab20")(place % 20)
        if arm in known:
            search.plot(known[arm].costs, known[arm].values, color=colour)
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
    test.set(
        title=f"on test items, cost {stated} by size; bars: medians",
        xlabel="hypervolume",
    )
    test.set_yticks(range(len(arms)), [named(arm) for arm in arms], fontsize="small")
    test.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    # The same rows give the same file.
    mpl.rcParams["svg.hashsalt"] = file.name
    figure.savefig(file, metadata={"Date": None})


def named(arm: str) -> str:
    """What the tables of docs call a search and whose genes it has."""
    kind, _, space = arm.rpartition("-")
    if arm in NAMES:
        return NAMES[arm]
    return f"{kind}, {PLACES.get(space, space)}"


def main() -> None:
    """Write the picture and its numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="what the benchmark kept")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/sample_efficiency"), help="without an ending"
    )
    words = parser.parse_args()
    table = words.out.with_name(f"{words.out.name}.csv")
    beside = words.out.with_name(f"{words.out.name}_curves.csv")
    rows = measured(words.folder, read_table(table))
    known = curves(words.folder, rows, read_table(beside))
    write_table(table, COLUMNS, rows)
    lines = [
        {"arm": arm, "seeds": curve.seeds, "cost": cost, "hypervolume": value}
        for arm, curve in sorted(known.items())
        for cost, value in zip(curve.costs, curve.values, strict=True)
    ]
    write_table(beside, ("arm", "seeds", "cost", "hypervolume"), lines)
    draw(rows, known, words.out.with_name(f"{words.out.name}.svg"))


if __name__ == "__main__":
    main()
