"""A front of two objectives drawn in characters."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from evomerge.front.front import Front, Member
from evomerge.front.tables import shown_value
from evomerge.objectives.measures import baseline_kind

MEMBER, SHOWN, KNEE = ".", "o", "K"
LETTERS = {"base": "b", "expert": "e", "average": "u", "soup": "g", "single": "s", "ensemble": "L"}


def drawing_lines(front: Front, shown: Collection[str], width: int, height: int) -> list[str]:
    """Members and baselines over the first two objectives, better to the right and up.

    Args:
        front: of at least two objectives and one model.
        shown: ids of members drawn as `o` rather than as `.`.
        width: columns of the drawing, axis and labels included.
        height: lines between the axes.
    """
    across, up = front.objectives[:2]
    models = [m for m in (*front.members, *front.references) if front.split in m.metrics]
    points = np.array([[m.metrics[front.split][o.metric].value for o in (across, up)] for m in models])
    low, high = points.min(axis=0), points.max(axis=0)
    edges = [shown_value(up.metric, value) for value in (high[1], low[1])]
    if up.sign > 0:
        edges.reverse()
    margin = max(map(len, edges)) + 1
    columns = max(10, width - margin - 1)
    share = (points - low) / np.where(high > low, high - low, 1.0)
    flip = np.array([across.sign > 0, up.sign > 0])
    share = np.where(flip, 1 - share, share)
    cells = [[" "] * columns for _ in range(height)]
    # Drawn in this order, so that what matters more lies on top.
    ranked = sorted(zip(models, share, strict=True), key=lambda pair: _rank(front, pair[0], shown))
    for model, (x, y) in ranked:
        row = height - 1 - round(y * (height - 1))
        cells[row][round(x * (columns - 1))] = _mark(front, model, shown)
    ends = [shown_value(across.metric, value) for value in (low[0], high[0])]
    if flip[0]:
        ends.reverse()
    lines = [f"{up.metric}"]
    for row, line in enumerate(cells):
        label = {0: edges[0], height - 1: edges[1]}.get(row, "")
        lines.append(f"{label:>{margin - 1}} |{''.join(line)}".rstrip())
    lines.append(f"{'':>{margin}}+{'-' * columns}")
    room = columns - len(ends[0]) - len(ends[1])
    name = across.metric if len(across.metric) + 2 <= room else ""
    lines.append(f"{'':>{margin}} {ends[0]}{name:^{room}}{ends[1]}")
    kinds = {baseline_kind(m.id) for m in front.references}
    words = {
        "base": "base",
        "expert": "experts",
        "average": "average",
        "soup": "greedy soup",
        "single": "best single coefficient",
        "ensemble": "logit ensemble, no model",
    }
    named = [f"{LETTERS[kind]} {words[kind]}" for kind in LETTERS if kind in kinds]
    return [
        *lines,
        ", ".join([f"{SHOWN} shown above", f"{MEMBER} other members", f"{KNEE} knee", *named]),
    ]


def _rank(front: Front, model: Member, shown: Collection[str]) -> int:
    return [MEMBER, SHOWN, *LETTERS.values(), KNEE].index(_mark(front, model, shown))


def _mark(front: Front, model: Member, shown: Collection[str]) -> str:
    if model in front.references:
        return LETTERS[baseline_kind(model.id)]
    if model.id == front.picks["knee"]:
        return KNEE
    return SHOWN if model.id in shown else MEMBER
