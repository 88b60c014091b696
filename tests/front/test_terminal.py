"""A front in terminals of many widths: every column is there, no word is broken, no line too long."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from evomerge.errors import UsageError
from evomerge.front.decision import decide
from evomerge.front.drawing import drawing_lines
from evomerge.front.front import Front
from evomerge.front.shown import Shown, Wish, choose_shown
from evomerge.front.spanning import MOST
from evomerge.front.statistics import Interval, Optimism
from evomerge.front.tables import scores_lines
from evomerge.front.terminal import members_lines, optimism_lines, title_lines
from evomerge.front.text_table import filled, in_pieces, prose
from evomerge.front.uncertainty import FrontUncertainty
from evomerge.objectives.measures import is_fraction
from evomerge.objectives.objective import Objective
from evomerge.objectives.scores import Metric
from tests.front.fronts import made

NAMES = (
    "translation.acc",
    "python_completion.pass@1",
    "gsm8k.exact_match",
    "ifeval.prompt_level_strict_acc",
    "commonsense_reasoning.acc_norm",
    "wikitext.bits_per_byte",
)
BASELINES = {"base": 0.1, "math": 0.3, "instruction-tuned": 0.3, "uniform": 0.4, "single-0.7": 0.42}
WIDTHS = (80, 100, 200)


def front_of(count: int, members: int = 40) -> Front:
    """Members on a sphere around the origin, baselines inside it; the last of six is minimised."""
    rng = np.random.default_rng(count)
    rows = np.abs(rng.normal(size=(members, count)))
    rows = 0.95 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    objectives = tuple(
        Objective(name, "minimize" if name.endswith("byte") else "maximize") for name in NAMES[:count]
    )
    values = {f"c0{number:04d}": row for number, row in enumerate(rows)}
    values |= {name: np.full(count, value) for name, value in BASELINES.items()}
    signs = np.array([objective.sign for objective in objectives])
    points = {name: tuple(np.where(signs > 0, 1 - row, row)) for name, row in values.items()}
    front = made(points, 0.03, objectives)
    first = dataclasses.replace(front.members[3], equals=("single-0.7",))
    return dataclasses.replace(front, members=(*front.members[:3], first, *front.members[4:]))


def lines_of(front: Front, width: int, wish: Wish | None = None) -> tuple[list[str], Shown]:
    decision = decide(front, None)
    shown = choose_shown(front, decision, wish or Wish())
    return members_lines(front, decision, shown, width), shown


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_readable_at_every_width(count: int, width: int) -> None:
    front = front_of(count)
    lines, shown = lines_of(front, width)
    text = "\n".join(lines)
    assert all(len(line) <= width for line in lines), max(lines, key=len)
    assert "…" not in text
    # Names: whole, or broken where a person would break them.
    for objective in front.objectives:
        pieces = re.split(r"(?<=_)|(?=\.)", objective.metric)
        assert objective.metric in text or all(piece in text for piece in pieces)
    assert ("better)" in text) == (count == 6)
    # Columns: every row has every score.
    starts = {line.split()[0]: n for n, line in enumerate(lines) if line.strip() and line[0] != " "}
    for member in (*shown.members, *front.references):
        row = lines[starts[member.id]]
        for objective in front.objectives:
            value = member.metrics["search"][objective.metric].value
            wanted = f"{100 * value:.1f}" if is_fraction(objective.metric) else f"{value:.4g}"
            assert wanted in row
        assert member in front.references or "0.50" in row
    # What is typed again stands in one piece.
    words = set(re.split(r"[ ,;\n]+", text))
    assert {pick for pick, name in front.picks.items()} <= words
    assert all(name in words for name in BASELINES)
    assert len(shown.members) == MOST
    assert re.search(r"of \d+ members that span the front, ordered by", " ".join(lines[:2]))
    assert f"{len(front.members) - MOST} more members" in text
    for option in ("--all", "--sort", "--min"):
        assert option in words
    assert "dominates" in text
    assert "probability" in text or "P(non-" in text


def test_baselines_are_called_so() -> None:
    front = front_of(2)
    text = "\n".join(lines_of(front, 200, Wish(every=True))[0])
    row = next(line for line in text.split("\n") if line.startswith("c00003"))
    assert "= baseline single-0.7" in row
    for name, words in (("math", "expert"), ("uniform", "average of the experts")):
        assert re.search(rf"^{name} .* {words}$", text, re.MULTILINE)


def test_where_no_table_fits_there_are_paragraphs() -> None:
    front = front_of(6)
    lines, shown = lines_of(front, 34)
    text = "\n".join(lines)
    for objective in front.objectives:
        assert text.count(objective.metric) >= len(shown.members)
    assert all(len(line) <= 34 or ", " not in line for line in lines)


def test_what_a_person_asks_to_see() -> None:
    front = front_of(3)
    decision = decide(front, None)

    def ids(**wish: object) -> list[str]:
        return [m.id for m in choose_shown(front, decision, Wish(**wish)).members]  # type: ignore[arg-type]

    every = [member.id for member in front.members]
    assert ids(every=True) == every
    value = {m.id: m.metrics["search"]["translation.acc"].value for m in front.members}
    best = sorted(every, key=lambda name: -value[name])
    assert ids(sort="translation") == best[:MOST]
    assert ids(sort="translation.acc", every=True) == best
    assert ids(sort="id", every=True) == sorted(every)
    assert set(ids(sort="probability", every=True)) == set(every)
    level = sorted(value.values())[-5]
    assert set(ids(low=(f"translation={level}",))) == set(best[:5])
    assert set(ids(high=(f"translation.acc={value[best[-2]]}",))) == set(best[-2:])
    assert ids(ids=("c00003", "best:translation")) == [n for n in every if n in ("c00003", best[0])]
    assert ids(low=("mean=1",)) == []
    nobody = choose_shown(front, decision, Wish(low=("mean=1",)))
    assert nobody.how == "no member has what was asked for"
    one = choose_shown(front, decision, Wish(ids=(best[0],)))
    assert one.how.startswith("the member asked for, ")
    least = sorted(value.values())[5]
    assert len(ids(low=(f"translation={least}",))) == MOST
    for wish, words in (
        (Wish(low=("translation",)), r"E506.*`translation` must be METRIC=VALUE"),
        (Wish(low=("speed=1",)), r"E506.*`speed` is no objective"),
        (Wish(sort="speed"), r"E506.*`speed` is no objective.*sort by a metric, mean, worst, .* or id"),
        (Wish(low=("translation=70",)), r"E506.*shares of 1; write translation=0.7 for 70 %"),
        (Wish(high=("mean=2",)), r"E506.*shares of 1; write mean=0.02 for 2 %"),
        (Wish(ids=("c00099",)), r"E506.*`c00099` is no member"),
    ):
        with pytest.raises(UsageError, match=words):
            choose_shown(front, decision, wish)
    mixed = front_of(6)
    with pytest.raises(UsageError, match="there is no mean of objectives that differ"):
        choose_shown(mixed, decide(mixed, None), Wish(sort="mean"))
    losses = [m.metrics["search"]["wikitext.bits_per_byte"].value for m in mixed.members]
    shown = choose_shown(mixed, decide(mixed, None), Wish(sort="wikitext", every=True))
    assert [m.metrics["search"]["wikitext.bits_per_byte"].value for m in shown.members] == sorted(
        losses
    )


def test_a_row_stands_for_those_that_are_close_to_it_and_were_asked_for() -> None:
    # Both ends are two standard errors from the middle, and four from one another.
    front = made({"c00000": (0.52, 0.48), "c00001": (0.5, 0.5), "c00002": (0.48, 0.52)}, 0.01)
    decision = decide(front, None)
    assert [set(group.ids) for group in decision.groups] == [{"c00000", "c00001", "c00002"}]
    for name, alike in (("c00001", 2), ("c00002", 1)):
        shown = choose_shown(front, decision, Wish(ids=(name,)))
        lines = members_lines(front, decision, shown, 200)
        assert any(line.startswith(name) and line.endswith(f"{alike} alike") for line in lines)
        left = "all" if alike == 2 else "1"
        assert lines[-1].startswith(f"2 more members, {left} of them alike: within two standard errors")
    rows = {f"c0{number:04d}": (0.3 + number / 500, 0.7 - number / 500) for number in range(60)}
    front = made(rows, 0.01)
    decision = decide(front, None)
    for wish in (Wish(), Wish(sort="id"), Wish(low=("t0.acc=0.35",)), Wish(high=("t0.acc=0.37",))):
        shown = choose_shown(front, decision, wish)
        kept = [m.id for m in front.members if shown.allowed == 60 or _keeps(rows[m.id][0], wish)]
        assert len(kept) == shown.allowed
        own = {member.id for member in shown.members}
        for name, count in shown.like.items():
            left = [n for n in kept if n not in own and abs(rows[n][0] - rows[name][0]) < 0.0201]
            assert 0 < count <= len(left)
        assert sum(shown.like.values()) == shown.alike <= len(kept) - len(own)


def _keeps(value: float, wish: Wish) -> bool:
    return value >= 0.35 - 1e-12 if wish.low else value <= 0.37 + 1e-12


@pytest.mark.parametrize("width", WIDTHS)
def test_title_and_optimism_fit(width: int) -> None:
    front = front_of(6)
    intervals = tuple(Interval(-0.02, -0.062, 0.019) for _ in front.objectives)
    found = Optimism(intervals, intervals[0])
    believed = FrontUncertainty({}, tuple("abc"), found, found, front.objectives)
    lines = [*title_lines(front, believed, width), *optimism_lines(believed, width)]
    assert all(len(line) <= width for line in lines)
    assert all(any(line.startswith(name) for line in lines) for name in NAMES)
    # Of both columns, beside their heads or below them.
    assert "\n".join(lines).count("[95 %]") == 2


def test_optimism_of_what_is_minimised_is_no_difference_of_scores() -> None:
    found = Optimism((Interval(0.02, 0.01, 0.03), Interval(4.0, 3.0, 5.0)), Interval(2.01, 1.5, 2.5))
    heads = {}
    for name, way in (("b.acc", "maximize"), ("b.perplexity", "minimize")):
        objectives = (Objective("a.acc", "maximize"), Objective(name, way))  # type: ignore[arg-type]
        lines = optimism_lines(FrontUncertainty({}, ("c00000",), found, None, objectives), 200)
        heads[name] = lines[0].split("items", 1)[1].strip()
        assert any(line.startswith("mean") for line in lines) == (way == "maximize")
    assert heads["b.acc"] == "search − selection [95 %]"
    # A perplexity of 10 on search items and of 14 on the others is 4 better, and a difference of -4.
    assert heads["b.perplexity"] == "better on search by [95 %]"


def test_a_drawing_has_everyone_where_they_belong() -> None:
    points = {"c00000": (0.9, 0.1), "c00001": (0.6, 0.6), "c00002": (0.1, 0.9), "base": (0.1, 0.1)}
    front = made(points)
    lines = drawing_lines(front, {"c00000", "c00001"}, 40, 9)
    assert all(len(line) <= 72 for line in lines)
    assert lines[0] == "t1.acc"
    grid = [line.partition("|")[2] for line in lines[1:10]]
    assert grid[0].startswith(".")  # the second objective's end, left out of the table
    assert grid[8].startswith("b")
    assert grid[8].rstrip().endswith("o")
    assert sum(row.count("K") for row in grid) == 1
    assert lines[1].startswith("90.0 % |")
    assert lines[-1] == "o shown above, . other members, K knee, b base"
    # Where less is better, better still lies to the right and up.
    other = made(points, objectives=(Objective("a.loss", "minimize"), Objective("b.loss", "minimize")))
    grid = [line.partition("|")[2] for line in drawing_lines(other, set(), 40, 9)[1:10]]
    assert grid[0].rstrip()[-1] in "bK"


def test_names_break_at_dots_underscores_and_blanks_only() -> None:
    assert in_pieces("python_completion.pass@1 %", 10) == ("python_", "completion", ".pass@1 %")
    assert in_pieces("a.acc %", 10) == ("a.acc %",)
    assert in_pieces("translation.acc %", 5) == ("translation", ".acc %")
    assert filled(["aaa", "bbb", "ccc"], 8) == ["aaa,", "bbb, ccc"]
    assert prose("one two three", 20) == ["one two three"]


@pytest.mark.parametrize("width", WIDTHS)
def test_scores_keep_their_percent_sign_at_every_width(width: int) -> None:
    metrics = {name: Metric(0.4567, 0.0123, 200) for name in NAMES}
    lines = scores_lines({"search": metrics, "selection": metrics, "test": metrics}, width)
    assert all(len(line) <= width for line in lines), max(lines, key=len)
    text = "\n".join(lines)
    assert text.count("45.7 ± 1.2") == 3 * sum(map(is_fraction, NAMES))
    assert not re.search(r"^ *%", text, re.MULTILINE)
    for name in NAMES:
        last = re.split(r"(?<=_)|(?=\.)", name)[-1]
        assert (f"{last} %" if is_fraction(name) else last) in text
    assert ("commonsense_reasoning.acc_norm %" in text) == (width == 200)
