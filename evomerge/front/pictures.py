"""Pictures for papers: a front, the history of a search, the coefficients of a merge; by matplotlib.

Figures are made without `pyplot`, so that nothing global changes and no display is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evomerge.errors import EnvironmentFault, Problem, UsageError
from evomerge.files.storage import written_whole
from evomerge.front.front import Front, Member
from evomerge.front.tables import headed, marks
from evomerge.front.trace import TracePoint
from evomerge.objectives.measures import is_fraction
from evomerge.objectives.objective import Objective
from evomerge.recipe.places import layer_place, lookup
from evomerge.recipe.recipe import MERGED, MergedSource, Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
PANEL = 4.2
"""Inches of a panel's sides."""


def new_figure(columns: int, rows: int = 1, size: tuple[float, float] = (PANEL, PANEL)) -> Figure:
    """An empty figure of some panels, `size` inches each.

    Raises:
        EnvironmentFault: E411, without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        todo = "pip install 'evomerge[plot]'"
        problem = Problem("E411", "pictures need matplotlib", "it is not installed", todo)
        raise EnvironmentFault(problem) from None
    return Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")


def check_name(path: Path) -> None:
    """See that a picture can have this name, before anything is drawn.

    Raises:
        UsageError: E500, if it ends in none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        wrong = f"the name of a picture ends in {', '.join(FORMATS)}"
        raise UsageError(Problem("E500", wrong, f"found {path.name!r}", "name it so"))


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the name's end; the file appears whole, without a date.

    Raises:
        UsageError: E500, as `check_name`.
        EnvironmentFault: E408, if it cannot be written.
    """
    check_name(path)
    stated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with written_whole(path) as hidden:
        figure.savefig(hidden, format=path.suffix[1:], dpi=200, metadata=stated[path.suffix])


def front_figure(front: Front, chosen: str | None = None) -> Figure:
    """Every pair of objectives on the deciding split: members, picks and baselines with standard errors.

    Args:
        front: what is drawn.
        chosen: a model that is marked by a ring, where it was scored on that split.
    """
    pairs = list(itertools.combinations(front.objectives, 2)) or [(front.objectives[0],) * 2]
    columns = min(3, len(pairs))
    figure = new_figure(columns, math.ceil(len(pairs) / columns))
    named = marks(front)
    everyone = (*front.members, *front.references)
    for number, (across, up) in enumerate(pairs, start=1):
        axes = figure.add_subplot(math.ceil(len(pairs) / columns), columns, number)
        _points(axes, front, front.members, across, up, "o", "C0", "members")
        _points(axes, front, front.references, across, up, "s", "0.35", "baselines")
        for model in (m for m in everyone if m.id == chosen and front.split in m.metrics):
            point = (_value(front, model, across), _value(front, model, up))
            axes.plot(*point, "o", markersize=11, fillstyle="none", color="C3", label="this model")
        labels = {m.id: m.id for m in front.references}
        labels |= {name: texts[0] for name, texts in named.items() if texts[0] == "knee"}
        at: dict[tuple[float, float], list[str]] = {}
        for member in everyone:
            if member.id in labels and front.split in member.metrics:
                point = (_value(front, member, across), _value(front, member, up))
                at.setdefault(point, []).append(labels[member.id])
        least, most = axes.get_xlim()
        for point, texts in at.items():
            # A name beside the right edge goes to the left, so that it stays within its panel.
            left = point[0] > least + 0.7 * (most - least)
            axes.annotate(
                ", ".join(dict.fromkeys(texts)),
                point,
                xytext=(-3 if left else 3, 3),
                textcoords="offset points",
                horizontalalignment="right" if left else "left",
                fontsize="x-small",
            )
        axes.set_xlabel(headed(across))
        axes.set_ylabel(headed(up))
        if number == 1:
            axes.legend(fontsize="small")
    figure.suptitle(f"{front.campaign}, {front.split} items", fontsize="medium")
    return figure


def _points(
    axes: Axes,
    front: Front,
    models: Sequence[Member],
    across: Objective,
    up: Objective,
    shape: str,
    colour: str,
    label: str,
) -> None:
    scored = [member for member in models if front.split in member.metrics]
    errors = [
        [_unit(o) * m.metrics[front.split][o.metric].stderr for m in scored] for o in (across, up)
    ]
    axes.errorbar(
        [_value(front, m, across) for m in scored],
        [_value(front, m, up) for m in scored],
        xerr=errors[0],
        yerr=errors[1],
        fmt=shape,
        color=colour,
        markersize=4,
        elinewidth=0.4,
        alpha=0.8,
        label=label,
    )


def _unit(objective: Objective) -> float:
    return 100.0 if is_fraction(objective.metric) else 1.0


def _value(front: Front, member: Member, objective: Objective) -> float:
    return _unit(objective) * member.metrics[front.split][objective.metric].value


def history_figure(name: str, points: Sequence[TracePoint], objectives: Sequence[Objective]) -> Figure:
    """Hypervolume and the best of each objective over evaluations, on search items."""
    figure = new_figure(2)
    spent = [point.evaluations for point in points]
    volume, best = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    volume.step(spent, [point.hypervolume for point in points], where="post")
    volume.set_ylabel("hypervolume (search scores)")
    for index, objective in enumerate(objectives):
        values = [p.best[index] for p in points]
        shown = [math.nan if v is None else _unit(objective) * v for v in values]
        best.step(spent, shown, where="post", label=headed(objective))
    best.set_ylabel("best so far (search scores)")
    best.legend(fontsize="small")
    for axes in (volume, best):
        axes.set_xlabel("evaluations")
    figure.suptitle(name, fontsize="medium")
    return figure


def heatmap_figure(name: str, recipe: Recipe, layers: int, places: Sequence[str]) -> Figure:
    """The coefficients of a merge: a panel for each expert, layers down and modules across.

    Args:
        name: of the merge.
        recipe: what it is.
        layers: of the model.
        places: its finest places, as `ModelLayout.places`.

    Raises:
        UsageError: E506, if it is a plain checkpoint.
    """
    table = coefficient_table(name, recipe, places)
    inner = _modules(places)
    columns = min(3, len(table))
    rows = math.ceil(len(table) / columns)
    # A figure's panels are wide enough for their modules' names.
    figure = new_figure(
        columns, rows, (max(2.5, 0.45 * len(inner) + 1.2), max(2.5, 0.22 * layers + 1.6))
    )
    labels = _rows(places)
    top = max(float(np.nanmax(np.abs(values))) for values in table.values()) or 1.0
    low = min(0.0, *(float(np.nanmin(values)) for values in table.values()))
    image = None
    for number, (title, values) in enumerate(table.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        image = axes.imshow(
            values,
            aspect="auto",
            cmap="viridis" if low >= 0 else "coolwarm",
            vmin=0.0 if low >= 0 else -top,
            vmax=top,
        )
        axes.set_title(title, fontsize="small")
        axes.set_xticks(range(len(inner)), _short(inner), rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(labels)), labels, fontsize="x-small")
    assert image is not None
    figure.colorbar(image, ax=figure.axes, shrink=0.8)
    figure.suptitle(name, fontsize="medium")
    return figure


def coefficient_table(name: str, recipe: Recipe, places: Sequence[str]) -> dict[str, np.ndarray]:
    """Expert to float64 [rows, modules]: embedding, layers, final norm, head; NaN where there is no tensor.

    Places outside the layers fill their row. A weight of single output rows is shown by its mean.

    Raises:
        UsageError: E506, if the recipe is a plain checkpoint.
    """
    source = recipe.sources.get(MERGED)
    if not isinstance(source, MergedSource) or not source.coefficients:
        raise UsageError(Problem("E506", f"`{name}` is a plain model and has no coefficients"))
    which = "weight" if "weight" in source.coefficients else next(iter(source.coefficients))
    inner = _modules(places)
    rows = _rows(places)
    found = {}
    for expert, table in source.coefficients[which].items():
        values = np.full((len(rows), len(inner)), np.nan)
        for place in places:
            own = source.rows.weights(expert, place) if source.rows and which == "weight" else ()
            value = float(np.mean(own)) if own else lookup(table, place)
            row = rows.index(_row(place))
            at = layer_place(place)
            if at is None:
                values[row] = value
            else:
                values[row, inner.index(at.inside)] = value
        found["all experts" if expert == "*" else expert] = values
    return found


def _modules(places: Sequence[str]) -> list[str]:
    """What places in layers are called after the layer's number."""
    found = map(layer_place, places)
    return sorted({place.inside for place in found if place is not None})


def _row(place: str) -> str:
    """What the row of a place is called: by its layer's number, or the place itself outside the layers."""
    found = layer_place(place)
    return place if found is None else f"{found.tower} {found.layer}".lstrip()


def _rows(places: Sequence[str]) -> list[str]:
    """The rows of a model, in its order."""
    return list(dict.fromkeys(map(_row, places)))


def _short(modules: Sequence[str]) -> list[str]:
    """Their last words where these tell them apart."""
    last = [module.rpartition(".")[2] for module in modules]
    return last if len(set(last)) == len(last) else list(modules)
