"""Text of a model card that means nothing beyond itself, and its tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from evomerge.objectives.scores import Metric

MAX_ROWS = 40
"""Longest table; what is left out is counted."""
MAX_NAME = 100


def plain(text: str) -> str:
    """Text that means nothing in Markdown, HTML or YAML beyond itself; the rest becomes `?`."""
    kept = re.sub(r"[^\w .,:/@+=%>-]", "?", " ".join(str(text).split()))
    return kept if len(kept) <= MAX_NAME else kept[: MAX_NAME - 3] + "..."


def hub_name(text: str) -> str:
    """`text` as a name the hub takes: letters, digits, `-`, `_`, `.` and at most one slash."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in text.split("/")]
    return "/".join([part for part in parts if part][-2:])[:96] or "unnamed"


def escaped(text: str) -> str:
    """`plain` text outside a code span: no emphasis, no address that becomes a link."""
    return re.sub(r"([_:]|(?<=www)\.)", r"\\\1", plain(text)) or "?"


def code(text: object) -> str:
    """`plain` text as a code span."""
    return f"`{plain(str(text)) or '?'}`"


def tabled(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of at most `MAX_ROWS` rows."""
    rows = list(rows)
    lines = [head, ["---"] * len(head), *rows[:MAX_ROWS]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    left = len(rows) - MAX_ROWS
    return text + (f"\n\n{left} more rows are left out here." if left > 0 else "")


def counted(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def scored(metric: Metric | None) -> str:
    """A value with its standard error; empty without."""
    return "" if metric is None else f"{metric.value:.4f} ± {metric.stderr:.4f}"
