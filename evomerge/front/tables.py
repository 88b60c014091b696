"""What is shown of a front, cell by cell; as CSV, and as HTML tables for notebooks."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.files.storage import written_whole
from evomerge.front.front import Front, Member, broken_by
from evomerge.front.text_table import Column, in_pieces, table_lines, width_of
from evomerge.objectives.measures import BaselineKind, baseline_kind, is_fraction, mean_score
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import SPLITS, Metric

if TYPE_CHECKING:
    from rich.box import Box

    from evomerge.front.statistics import Interval

NARROW_NAME = 16
"""Columns for the name of a metric where there is little room."""

BASELINES: dict[BaselineKind, str] = {
    "base": "base",
    "expert": "expert",
    "average": "average of the experts",
    "soup": "greedy soup",
    "single": "best single coefficient",
    "ensemble": "logit ensemble of the experts, no model: cannot be exported",
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
    found = {member.id: baseline_label(front, member) for member in front.references}
    for member in front.members:
        same = [f"= {name}" for name in member.equals]
        found[member.id] = " ".join([*named.get(member.id, []), *same])
    return found


def headed(objective: Objective) -> str:
    """A metric at the head of its column: with its unit, and the direction where less is better."""
    unit = " %" if is_fraction(objective.metric) else ""
    return f"{objective.metric}{unit}" + ("" if objective.sign < 0 else " (less is better)")


def mean(front: Front, member: Member) -> float | None:
    """Mean of the objectives on the deciding split, where they are fractions to maximise."""
    return mean_score(front.objectives, member.metrics.get(front.split, {}))


def ruled() -> Box:
    """Rules under the head and between sections, nothing else."""
    from rich.box import Box

    blank, rule = "    ", " ── "
    return Box("\n".join((blank, blank, rule, blank, rule, blank, blank, blank)) + "\n")


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


def baseline_label(front: Front, member: Member) -> str:
    """What baseline it is, in words, and the bounds that it breaks."""
    label = BASELINES[baseline_kind(member.id)]
    bounds = broken_by(front, member)
    return f"{label}; breaks {', '.join(map(str, bounds))}" if bounds else label


def scores_lines(scores: Mapping[str, Mapping[str, Metric]], width: int) -> list[str]:
    """Metrics down, splits across; names in pieces where `width` has no room for the roomy form."""
    roomy, narrow = (_score_columns(scores, broken) for broken in (False, True))
    return table_lines(roomy, 3) if width_of(roomy, 3) <= width else table_lines(narrow, 2)


def _score_columns(scores: Mapping[str, Mapping[str, Metric]], broken: bool) -> list[Column]:
    splits = [split for split in SPLITS if split in scores]
    names = list(dict.fromkeys(name for split in splits for name in scores[split]))
    whole = [f"{name} %" if is_fraction(name) else name for name in names]
    rows = [in_pieces(text, NARROW_NAME) if broken else (text,) for text in whole]
    columns = [Column(("score",), tuple(rows))]
    for split in splits:
        found = [(name, scores[split].get(name)) for name in names]
        cells = tuple(("" if m is None else shown_metric(name, m),) for name, m in found)
        columns.append(Column((split,), cells, right=True))
    if {"search", "selection"} <= set(splits):
        pairs = [(name, scores["search"].get(name), scores["selection"].get(name)) for name in names]
        head = ("search −", "selection") if broken else ("search − selection",)
        columns.append(Column(head, tuple((_difference(*pair),) for pair in pairs), right=True))
    return columns


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


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # In the font encoding that LaTeX begins with these three are other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def latex_text(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_LATEX.get(character, character) for character in text)


def front_latex(front: Front, members: Sequence[Member]) -> str:
    """Some members and all baselines as a `tabular` for papers, which needs the package `booktabs`."""
    heads = [headed(objective) for objective in front.objectives]
    lines = [
        rf"% {front.campaign}: {front.split} items, with standard errors; needs \usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}l}}",
        r"\toprule",
        " & ".join(map(latex_text, ["model", *heads, "pick"])) + r" \\",
        r"\midrule",
    ]
    beside = labels(front)
    for group in (members, front.references):
        for member in group:
            cells = [_cell(front, member, o.metric).replace("±", r"$\pm$") for o in front.objectives]
            named = (latex_text(member.id), *cells, latex_text(beside[member.id]))
            lines.append(" & ".join(named) + r" \\")
        lines.append(r"\midrule" if group is members else r"\bottomrule")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def write_front_parquet(front: Front, path: Path) -> None:
    """`front_records` as a Parquet file, which appears whole, in a folder that is made if new.

    Raises:
        EnvironmentFault: E408, if it cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    head, rows = front_records(front)
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    with written_whole(path) as hidden:
        parquet.write_table(pa.table(dict(zip(head, map(list, columns), strict=True))), hidden)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """An HTML table for notebooks; every text in it is escaped."""
    cells = [f"<caption>{escape(caption)}</caption>"] if caption else []
    cells.append("".join(["<tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr>"]))
    cells += ["".join(["<tr>", *(f"<td>{escape(cell)}</td>" for cell in row), "</tr>"]) for row in rows]
    return f"<table>{''.join(cells)}</table>"


def front_html(front: Front) -> str:
    """Members and baselines as an HTML table."""
    head = ["model", *map(headed, front.objectives), "P(non-dominated)", "pick"]
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
        unit = " %" if is_fraction(name) else ""
        cells = ("" if metric is None else shown_metric(name, metric) for metric in found)
        rows.append([f"{name}{unit}", *cells])
    return html_table(["score", *splits], rows, caption)
