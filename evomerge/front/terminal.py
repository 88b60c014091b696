"""A front as lines of text for a terminal of any width, and how far it may be believed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evomerge.front.decision import Decision
from evomerge.front.front import Front, Member, why_empty
from evomerge.front.shown import Shown
from evomerge.front.tables import baseline_label, headed, marks, shown_interval, shown_metric
from evomerge.front.text_table import Column, filled, in_pieces, prose, table_lines, width_of
from evomerge.front.uncertainty import FrontUncertainty
from evomerge.objectives.measures import is_fraction, mean_score
from evomerge.objectives.scores import Metric
from evomerge.objectives.steering import Choice


@dataclass(frozen=True)
class _Layout:
    """How much room a table takes.

    `heads`: whole, in `pieces`, or `numbers` with a legend; `errors`: standard errors in the cells; `gap`:
    blanks between columns; `beside`: remarks in columns of their own rather than below their row.
    """

    heads: str
    errors: bool = True
    compact: bool = False
    gap: int = 2
    beside: bool = False


_PROBABLE = {"whole": ("P(non-dominated)",), "pieces": ("P(non-", "dominated)"), "numbers": ("P",)}
_LAYOUTS = (
    _Layout("whole", gap=3, beside=True),
    _Layout("pieces", beside=True),
    _Layout("pieces"),
    _Layout("pieces", compact=True, gap=1),
    _Layout("numbers", compact=True, gap=1),
    _Layout("numbers", errors=False),
)
"""From roomy to narrow; the first that fits is taken."""


def title_lines(front: Front, believed: FrontUncertainty, width: int) -> list[str]:
    """Campaign, size and hypervolume; which split decides, on how many items; bounds and failed baselines."""
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
    return prose(f"{front.campaign}: front of {models}, {volume}\n{decided}", width)


def members_lines(front: Front, decision: Decision, shown: Shown, width: int) -> list[str]:
    """The table: members, then the baselines under a rule, and how to see the rest; fits in `width`."""
    chosen = [*shown.members, *front.references]
    lines = prose(shown.how if front.members else "the baselines", width)
    for layout in _LAYOUTS:
        columns, below = _columns(front, decision, shown, layout, width)
        if width_of(columns, layout.gap) <= width:
            if layout.heads == "numbers":
                named = [f"{n} {headed(o)}" for n, o in enumerate(front.objectives, start=1)]
                named.append("P probability of being non-dominated")
                named += [] if layout.errors else ["standard errors in a wider terminal"]
                lines += filled(named, width)
            lines += ["", *table_lines(columns, layout.gap, [len(shown.members)], below)]
            break
    else:
        lines += ["", *_paragraphs(front, decision, shown, chosen, width)]
    return [*lines, *_rest(front, shown, width)]


def _rest(front: Front, shown: Shown, width: int) -> list[str]:
    """How many members are left out, and how to see them."""
    left = len(front.members) - len(shown.members)
    if not left:
        return []
    alike = ""
    if shown.alike:
        number = "all" if shown.alike == left else shown.alike
        alike = f", {number} of them alike: within two standard errors of one above on all objectives"
    metric = front.objectives[0].metric
    ways = f"--all, --sort {metric}, --min {metric}=VALUE, or ids"
    return ["", *prose(f"{left} more members{alike}; see them with {ways}", width)]


def _columns(
    front: Front, decision: Decision, shown: Shown, layout: _Layout, width: int
) -> tuple[list[Column], list[list[str]]]:
    """The columns of a layout, and the lines below each row."""
    chosen = [*shown.members, *front.references]
    columns = [Column(("model",), tuple((member.id,) for member in chosen))]
    for number, objective in enumerate(front.objectives, start=1):
        cells = tuple((_cell(front, member, objective.metric, layout),) for member in chosen)
        columns.append(Column(_heads(headed(objective), number, layout, cells), cells, right=True))
    means = [mean_score(front.objectives, m.metrics.get(front.split, {})) for m in chosen]
    if any(found is not None for found in means):
        texts = ("" if found is None else f"{100 * found:.1f}" for found in means)
        head = ("mean", "%") if layout.heads == "numbers" else ("mean %",)
        columns.append(Column(head, tuple((text,) for text in texts), right=True))
    if any(member.probability is not None for member in shown.members):
        texts = ("" if m.probability is None else f"{m.probability:.2f}" for m in chosen)
        columns.append(Column(_PROBABLE[layout.heads], tuple((text,) for text in texts), right=True))
    picks = [_remarks(front, shown, member) for member in chosen]
    beaten = [_beaten(decision, member) for member in chosen]
    if not layout.beside:
        indent = "  "
        return columns, [
            [indent + line for line in filled(_below(*pair), width - len(indent))]
            for pair in zip(picks, beaten, strict=True)
        ]
    return [*columns, *_beside(picks, beaten, width - width_of(columns, layout.gap), layout.gap)], []


def _beside(
    picks: Sequence[Sequence[str]], beaten: Sequence[Sequence[str]], room: int, gap: int
) -> list[Column]:
    """Two columns of remarks in `room`, or wider where their longest words need it."""
    heads = (("dominates,", "with probability"), ("pick",))
    least = [
        max([len(word) + 1 for words in column for word in words] + [len(line) for line in head])
        for column, head in zip((beaten, picks), heads, strict=True)
    ]
    whole = [
        max([len(", ".join(words)) for words in column] + [least[index]])
        for index, column in enumerate((beaten, picks))
    ]
    free = max(0, room - 2 * gap - sum(least))
    second = min(whole[1], least[1] + free)
    first = min(whole[0], least[0] + max(0, free - (second - least[1])))
    return [
        Column(head, tuple(tuple(filled(words, wide)) or ("",) for words in column))
        for head, column, wide in zip(heads, (beaten, picks), (first, second), strict=True)
    ]


def _below(picks: Sequence[str], beaten: Sequence[str]) -> list[str]:
    if not beaten:
        return list(picks)
    return [*picks, f"dominates {beaten[0]}", *beaten[1:]]


def _remarks(front: Front, shown: Shown, member: Member) -> list[str]:
    """Picks that name a member, the baselines it is, and how many members left out are like it."""
    if member in front.references:
        return re.split("(?<=;) ", baseline_label(front, member))
    found = [*marks(front).get(member.id, [])]
    found += [f"= baseline {name}" for name in member.equals]
    if member.id in shown.like:
        found.append(f"{shown.like[member.id]} alike")
    return found


def _beaten(decision: Decision, member: Member) -> list[str]:
    beaten = decision.dominates.get(member.id, ())
    return [
        d.baseline if d.probability is None else f"{d.baseline} {d.probability:.2f}" for d in beaten
    ]


def _heads(head: str, number: int, layout: _Layout, cells: Sequence[Sequence[str]]) -> tuple[str, ...]:
    if layout.heads == "numbers":
        return (str(number),)
    widest = max((len(line) for cell in cells for line in cell), default=0)
    return (head,) if layout.heads == "whole" else in_pieces(head, max(widest, 6))


def _cell(front: Front, member: Member, metric: str, layout: _Layout) -> str:
    found = member.metrics.get(front.split)
    if found is not None and metric in found:
        return _value(metric, found[metric], layout)
    return f"{_value(metric, member.metrics['search'][metric], layout)} (search)"


def _value(name: str, metric: Metric, layout: _Layout) -> str:
    if not layout.errors:
        return f"{100 * metric.value:.1f}" if is_fraction(name) else f"{metric.value:.4g}"
    text = shown_metric(name, metric)
    return text.replace(" ± ", "±") if layout.compact else text


def _paragraphs(
    front: Front, decision: Decision, shown: Shown, chosen: Sequence[Member], width: int
) -> Iterator[str]:
    """Where no table fits: a paragraph each."""
    whole = _LAYOUTS[0]
    for member in chosen:
        if front.references and member is front.references[0] and shown.members:
            yield "─" * min(width, 20)
        yield from filled([member.id, *_remarks(front, shown, member)], width)
        facts = [f"{headed(o)} {_cell(front, member, o.metric, whole)}" for o in front.objectives]
        if member.probability is not None:
            facts.append(f"P(non-dominated) {member.probability:.2f}")
        facts += _below([], _beaten(decision, member))
        yield from (f"  {line}" for line in filled(facts, width - 2))


def optimism_lines(believed: FrontUncertainty, width: int) -> list[str]:
    """How much the search's own scores flatter: objectives down; raw, then net of the baselines'."""
    assert believed.optimism is not None
    count = len(believed.best_on_search)
    models = "the best model" if count == 1 else f"the {count} best models"
    names = [objective.metric for objective in believed.objectives]
    rows = [f"{name} %" if is_fraction(name) else name for name in names]
    intervals = [
        []
        if found is None
        else [shown_interval(n, i) for n, i in zip(names, found.objectives, strict=True)]
        for found in (believed.optimism, believed.shrinkage)
    ]
    if len(names) > 1 and believed.has_mean:
        rows.append("mean %")
        for cells, found in zip(intervals, (believed.optimism, believed.shrinkage), strict=True):
            cells += [] if found is None else [shown_interval("mean", found.mean)]
    for wide in (True, False):
        first = (
            f"optimism of {models} on search items"
            if wide
            else f"optimism of\n{models}\non search items"
        )
        level = " [95 %]" if wide else "\n[95 %]"
        raw, net = optimism_heads(believed)
        net = net if wide else net.replace("the ", "the\n")
        heads = (first, raw + level, net + level)
        columns = [
            Column(tuple(head.split("\n")), tuple((text,) for text in cells), right=index > 0)
            for index, (head, cells) in enumerate(zip(heads, (rows, *intervals), strict=True))
            if cells
        ]
        if width_of(columns, 3) <= width:
            break
    return table_lines(columns, 3 if wide else 2)


def optimism_heads(believed: FrontUncertainty) -> tuple[str, str]:
    """What the two columns of optimism are called, without the level of their intervals.

    Above 0 is flattery. Where less is better that is no difference of search and selection in this order.
    """
    maximised = all(objective.direction == "maximize" for objective in believed.objectives)
    return "search − selection" if maximised else "better on search by", "beyond the baselines'"


def smooth_lines(front: Front, width: int) -> list[str]:
    """How smooth values rank the candidates beside each objective's metric, and which of the two steers."""
    shown = []
    for objective, choice in zip(front.objectives, front.steering, strict=True):
        number = "none" if choice.correlation is None else f"{choice.correlation:.2f}"
        why = "" if choice.reason == "correlated" or not front.is_steered else f" ({_steered(choice)})"
        shown.append(f"{objective.metric} {number}{why}")
    return prose(f"rank correlation of smooth and reported values: {', '.join(shown)}", width)


def _steered(choice: Choice) -> str:
    if choice.used == "smooth":
        return choice.reason
    return f"{choice.reason}: the search goes by the reported value"


def slope_words(front: Front) -> str:
    """What gradients and losses cost beside evaluations, and how many failed."""
    cost, evaluations = f"{front.slope_cost:.1f}", front.evaluations
    measured = f"{front.slopes} gradients and losses cost as much as {cost} evaluations"
    failed = f"; {front.slopes_failed} failed" if front.slopes_failed else ""
    return f"{measured}, beside {evaluations} of merges{failed}"
