"""A front as a table for people and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from evomerge.front.front import Front, Member, broken_by, why_empty
from evomerge.front.measures import BaselineKind, baseline_kind, is_fraction, mean_score
from evomerge.objectives.scores import SPLITS, Metric

if TYPE_CHECKING:
    from rich.box import Box
    from rich.table import Table

    from evomerge.front.statistics import Interval
    from evomerge.front.uncertainty import FrontUncertainty

BASELINES: dict[BaselineKind, str] = {
    "base": "base",
    "expert": "expert",
    "average": "average of the experts",
    "single": "best single coefficient",
}
"""Kinds of baselines in words."""


def shown_value(metric: str, value: float) -> str:
    """A value as people read it: percent where the metric is an accuracy."""
    return f"{100 * value:.1f} %" if is_fraction(metric) else f"{value:.4g}"


def shown_metric(name: str, metric: Metric) -> str:
    """A value with its standard error."""
    if is_fraction(name):
        return f"{100 * metric.value:.1f} ± {100 * metric.stderr:.1f}"
    return f"{metric.value:.4g} ± {metric.stderr:.2g}"


def marks(front: Front) -> dict[str, list[str]]:
    """Member id to the picks that name it: `knee`, `best:METRIC`."""
    found: dict[str, list[str]] = {}
    for text, name in front.picks.items():
        found.setdefault(name, []).append(text)
    return found


def labels(front: Front) -> dict[str, str]:
    """Id to what stands beside it in a table: picks and the baselines it equals, or what baseline it is."""
    named = marks(front)
    found = {member.id: _baseline_label(front, member) for member in front.references}
    for member in front.members:
        same = [f"= {name}" for name in member.equals]
        found[member.id] = " ".join([*named.get(member.id, []), *same])
    return found


def mean(front: Front, member: Member) -> float | None:
    """Mean of the objectives on the deciding split, where they are fractions to maximise."""
    return mean_score(front.objectives, member.metrics.get(front.split, {}))


def front_title(front: Front, believed: FrontUncertainty) -> str:
    """Two lines: campaign, size and hypervolume; which split decides, on how many items."""
    first = (front.members or front.references)[0]
    metrics = first.metrics.get(front.split) or first.metrics["search"]
    counts = {o.metric: metrics[o.metric].items for o in front.objectives}
    if len(set(counts.values())) == 1:
        items = f"{next(iter(counts.values()))} of each task"
    else:
        items = ", ".join(f"{count} of {name}" for name, count in counts.items())
    volume = f"hypervolume {front.hypervolume.get(front.split, 0.0):.4f}"
    if front.split in believed.hypervolume:
        interval = believed.hypervolume[front.split]
        volume += f" [{interval.low:.4f}, {interval.high:.4f}]"
    if front.split != "search":
        volume += f" (on search items {front.hypervolume['search']:.4f})"
    decided = f"scores and front on {front.split} items, {items}, with standard errors"
    if front.split == "search":
        decided = f"not final: scores and front on the search's own items, {items}"
    if front.bounds:
        kept = ", ".join(map(str, front.bounds))
        decided += f"\nall members keep {kept}; {front.infeasible} other models do not"
    if not front.members and front.infeasible:
        decided = why_empty(front)
    for name, why in front.failed_baselines.items():
        decided += f"\nthe baseline {name} failed, {why}"
    models = "1 model" if len(front.members) == 1 else f"{len(front.members)} models"
    return f"{front.campaign}: front of {models}, {volume}\n{decided}\n"


def smooth_line(front: Front) -> str:
    """How smooth values rank the candidates of the search beside each objective's metric."""
    shown = []
    for objective, choice in zip(front.objectives, front.steering, strict=True):
        number = "none" if choice.correlation is None else f"{choice.correlation:.2f}"
        why = "" if choice.reason == "correlated" else f" ({choice.reason})"
        shown.append(f"{objective.metric} {number}{why}")
    return f"rank correlation of smooth and reported values: {', '.join(shown)}"


def ruled() -> Box:
    """Rules under the head and between sections, nothing else."""
    from rich.box import Box

    blank, rule = "    ", " ── "
    return Box("\n".join((blank, blank, rule, blank, rule, blank, blank, blank)) + "\n")


def front_table(front: Front, *, narrow: bool = False) -> Table:
    """Members first, then the baselines under a rule; `narrow` with as little room as they need."""
    from rich.table import Table

    with_mean = mean(front, front.members[0] if front.members else front.references[0]) is not None
    table = Table(box=ruled(), pad_edge=False, show_edge=False, padding=(0, 1, 0, 0 if narrow else 1))
    table.add_column("model", no_wrap=True)
    for objective in front.objectives:
        unit = " %" if is_fraction(objective.metric) else ""
        better = "" if objective.direction == "maximize" else " (less is better)"
        table.add_column(f"{objective.metric}{unit}{better}", justify="right", no_wrap=True)
    if with_mean:
        table.add_column("mean %", justify="right", no_wrap=True)
    probable = "P(non-\ndominated)" if narrow else "P(non-dominated)"
    table.add_column(probable, justify="right", no_wrap=True)
    # A pick is typed again as it stands: where it does not fit it goes on in the next line.
    table.add_column("pick", overflow="fold")
    beside = labels(front)
    for group in (front.members, front.references):
        for member in group:
            cells = [_cell(front, member, o.metric) for o in front.objectives]
            if with_mean:
                average = mean(front, member)
                cells.append("" if average is None else f"{100 * average:.1f}")
            probability = "" if member.probability is None else f"{member.probability:.2f}"
            table.add_row(member.id, *cells, probability, beside[member.id])
        table.add_section()
    return table


def optimism_table(believed: FrontUncertainty) -> Table:
    """How much the search's own scores flatter: objectives down; raw, then net of the baselines'."""
    from rich.table import Table

    assert believed.optimism is not None
    count = len(believed.best_on_search)
    models = "the best model" if count == 1 else f"the {count} best models"
    table = Table(box=ruled(), pad_edge=False, show_edge=False)
    table.add_column(f"optimism of {models} on search items")
    table.add_column("search − selection", justify="right", no_wrap=True)
    table.add_column("beyond the baselines'", justify="right", no_wrap=True)
    names = [objective.metric for objective in believed.objectives]
    rows = [(name, index) for index, name in enumerate(names)]
    for name, index in rows:
        cells = [
            "" if found is None else shown_interval(name, found.objectives[index])
            for found in (believed.optimism, believed.shrinkage)
        ]
        table.add_row(f"{name} %" if is_fraction(name) else name, *cells)
    if len(names) > 1 and all(map(is_fraction, names)):
        cells = [
            "" if found is None else shown_interval("mean", found.mean)
            for found in (believed.optimism, believed.shrinkage)
        ]
        table.add_row("mean %", *cells)
    return table


def shown_interval(metric: str, interval: Interval) -> str:
    """A signed difference with its interval: percentage points where the metric is an accuracy."""
    numbers = (interval.value, interval.low, interval.high)
    if is_fraction(metric):
        value, low, high = (f"{100 * number:+.1f}" for number in numbers)
    else:
        value, low, high = (f"{number:+.3g}" for number in numbers)
    return f"{value} [{low}, {high}]"


def _cell(front: Front, member: Member, metric: str) -> str:
    found = member.metrics.get(front.split)
    if found is not None and metric in found:
        return shown_metric(metric, found[metric])
    return f"{shown_metric(metric, member.metrics['search'][metric])} (search)"


def _baseline_label(front: Front, member: Member) -> str:
    label = BASELINES[baseline_kind(member.id)]
    bounds = broken_by(front, member)
    return f"{label}; breaks {', '.join(map(str, bounds))}" if bounds else label


def scores_table(scores: Mapping[str, Mapping[str, Metric]]) -> Table:
    """Metrics down, splits across."""
    from rich.table import Table

    splits = [split for split in SPLITS if split in scores]
    table = Table(box=ruled(), pad_edge=False, show_edge=False)
    table.add_column("score")
    for split in splits:
        table.add_column(split, justify="right")
    both = {"search", "selection"} <= set(splits)
    if both:
        table.add_column("search − selection", justify="right")
    for name in dict.fromkeys(name for split in splits for name in scores[split]):
        found = [scores[split].get(name) for split in splits]
        unit = " %" if is_fraction(name) else ""
        cells = ["" if metric is None else shown_metric(name, metric) for metric in found]
        if both:
            cells.append(_difference(name, scores["search"].get(name), scores["selection"].get(name)))
        table.add_row(f"{name}{unit}", *cells)
    return table


def _difference(name: str, first: Metric | None, second: Metric | None) -> str:
    """The difference of two scores on different items, with its standard error."""
    if first is None or second is None:
        return ""
    difference, error = first.value - second.value, math.hypot(first.stderr, second.stderr)
    if is_fraction(name):
        return f"{100 * difference:+.1f} ± {100 * error:.1f}"
    return f"{difference:+.4g} ± {error:.2g}"


def safe_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


Value = str | float | None


def front_records(front: Front) -> tuple[list[str], list[list[Value]]]:
    """Column names, and a row for each member and baseline; scores are of the deciding split."""
    columns = [name for o in front.objectives for name in (o.metric, f"{o.metric} stderr")]
    judged = ["mean", "probability_non_dominated", "picks", "equals"]
    head = ["id", "kind", "split", *columns, *judged, "recipe"]
    rows: list[list[Value]] = []
    named = marks(front)
    for kind, group in (("member", front.members), ("baseline", front.references)):
        for member in group:
            split = front.split if front.split in member.metrics else "search"
            found = [member.metrics[split][o.metric] for o in front.objectives]
            numbers = [number for metric in found for number in (metric.value, metric.stderr)]
            average = mean(front, member)
            picks = " ".join(named.get(member.id, [])) if kind == "member" else ""
            probability = member.probability
            named_by = [average, probability, picks, " ".join(member.equals), member.recipe]
            rows.append([member.id, kind, split, *numbers, *named_by])
    return head, rows


def front_csv(front: Front) -> str:
    """`front_records` as CSV, numbers with all their digits."""
    head, rows = front_records(front)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in head])
    for row in rows:
        writer.writerow(
            ["" if v is None else safe_cell(v) if isinstance(v, str) else repr(v) for v in row]
        )
    return out.getvalue()


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """An HTML table for notebooks; every text in it is escaped."""
    cells = [f"<caption>{escape(caption)}</caption>"] if caption else []
    cells.append("".join(["<tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr>"]))
    cells += ["".join(["<tr>", *(f"<td>{escape(cell)}</td>" for cell in row), "</tr>"]) for row in rows]
    return f"<table>{''.join(cells)}</table>"


def front_html(front: Front) -> str:
    """Members and baselines as an HTML table."""
    head = ["model", *(o.metric for o in front.objectives), "P(non-dominated)", "pick"]
    beside = labels(front)
    rows = []
    for group in (front.members, front.references):
        for member in group:
            probability = "" if member.probability is None else f"{member.probability:.2f}"
            cells = [_cell(front, member, o.metric) for o in front.objectives]
            rows.append([member.id, *cells, probability, beside[member.id]])
    return html_table(head, rows, repr(front).strip("<>"))


def scores_html(caption: str, scores: Mapping[str, Mapping[str, Metric]]) -> str:
    """Metrics down, splits across, as an HTML table."""
    splits = [split for split in SPLITS if split in scores]
    names = dict.fromkeys(name for split in splits for name in scores[split])
    rows = []
    for name in names:
        found = [scores[split].get(name) for split in splits]
        rows.append([name, *("" if metric is None else shown_metric(name, metric) for metric in found)])
    return html_table(["score", *splits], rows, caption)
