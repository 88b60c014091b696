"""A picture of a front: every pair of objectives, members and baselines, as a PNG.

    evomerge front RUN --json > front.json
    python experiments/plot_front.py front.json docs/quickstart_front.png

Needs matplotlib, which pymoo brings.
"""

import itertools
import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def main(source: Path, target: Path) -> None:
    """Read `evomerge front --json` and draw one panel for each pair of objectives."""
    front = json.loads(source.read_text())
    split = front["split"]
    metrics = [objective["metric"] for objective in front["objectives"]]
    pairs = list(itertools.combinations(metrics, 2))

    def values(model: dict, metric: str) -> float:
        return 100 * model["metrics"][split][metric]["value"]

    figure, panels = plt.subplots(1, len(pairs), figsize=(5 * len(pairs), 4.6), squeeze=False)
    for panel, (across, up) in zip(panels[0], pairs, strict=True):
        members = front["members"]
        weights = [sum(values(m, metric) for metric in metrics) / len(metrics) for m in members]
        dots = panel.scatter(
            [values(m, across) for m in members],
            [values(m, up) for m in members],
            c=weights,
            cmap="viridis",
            s=26,
        )
        for baseline in front["baselines"]:
            x, y = values(baseline, across), values(baseline, up)
            panel.scatter([x], [y], marker="D", c="crimson", s=34)
            panel.annotate(
                baseline["id"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8
            )
        panel.set_xlabel(f"{across} (%)")
        panel.set_ylabel(f"{up} (%)")
        panel.grid(alpha=0.3)
    figure.suptitle(
        f"{front['campaign']}: {len(front['members'])} models on the front, {split} items; "
        "diamonds are baselines"
    )
    figure.colorbar(dots, ax=panels[0].tolist(), label="mean over objectives (%)", pad=0.01)
    figure.savefig(target, dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
