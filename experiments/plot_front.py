"""A picture of a front: every pair of objectives, members and baselines, as a PNG.

    evomerge front RUN --json > front.json
    python experiments/plot_front.py front.json --out docs/quickstart_front.png

With --beside, a second front of the same objectives is drawn as hollow circles. Needs matplotlib, which pymoo
brings.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

Model = dict[str, Any]


def main() -> None:
    """Read what `evomerge front --json` printed and draw one panel for each pair of objectives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("front", type=Path)
    parser.add_argument("--beside", type=Path, help="another front, as hollow circles")
    parser.add_argument("--label", default="the other front", help="what the picture calls it")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    front = json.loads(arguments.front.read_text())
    other = json.loads(arguments.beside.read_text()) if arguments.beside else None
    split = front["split"]
    metrics = [objective["metric"] for objective in front["objectives"]]
    pairs = list(itertools.combinations(metrics, 2))

    def values(models: list[Model], metric: str) -> list[float]:
        return [100 * model["metrics"][split][metric]["value"] for model in models]

    members, baselines = front["members"], front["baselines"]
    means = [
        sum(of_member) / len(metrics)
        for of_member in zip(*(values(members, m) for m in metrics), strict=True)
    ]
    figure, panels = plt.subplots(
        1, len(pairs), figsize=(4.6 * len(pairs) + 1, 4.6), squeeze=False, layout="constrained"
    )
    for panel, (across, up) in zip(panels[0], pairs, strict=True):
        if other is not None:
            shown = other["members"]
            panel.scatter(
                values(shown, across),
                values(shown, up),
                s=26,
                facecolors="none",
                edgecolors="0.55",
                linewidths=0.9,
            )
        dots = panel.scatter(
            values(members, across), values(members, up), c=means, cmap="viridis", s=26
        )
        panel.scatter(values(baselines, across), values(baselines, up), marker="D", c="crimson", s=34)
        left, right = panel.get_xlim()
        for baseline, x, y in zip(
            baselines, values(baselines, across), values(baselines, up), strict=True
        ):
            beyond = x > (left + right) / 2
            panel.annotate(
                baseline["id"],
                (x, y),
                xytext=(-6 if beyond else 6, -11),
                textcoords="offset points",
                ha="right" if beyond else "left",
                fontsize=8,
            )
        panel.set_xlabel(f"{across} (%)")
        panel.set_ylabel(f"{up} (%)")
        panel.grid(alpha=0.3)
    title = f"{front['campaign']}: {len(members)} models on the front, {split} items; diamonds are baselines"
    if other is not None:
        title += f", hollow circles {arguments.label} ({len(other['members'])} models)"
    figure.suptitle(title)
    figure.colorbar(dots, ax=panels[0].tolist(), label="mean over objectives (%)", pad=0.01)
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
