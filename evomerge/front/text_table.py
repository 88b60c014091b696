"""Plain tables for terminals of any width: rules, columns of known width, no word ever broken."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len


@dataclass(frozen=True)
class Column:
    """A column: its head in lines, and a cell for each row, each in lines."""

    head: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    right: bool = False

    @property
    def width(self) -> int:
        """Columns of a terminal that its widest line takes."""
        return max(
            map(cell_len, (*self.head, *(line for cell in self.cells for line in cell))), default=0
        )


def width_of(columns: Sequence[Column], gap: int) -> int:
    """Columns of a terminal that a table takes."""
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


def table_lines(
    columns: Sequence[Column],
    gap: int,
    rules: Sequence[int] = (),
    below: Sequence[Sequence[str]] = (),
) -> list[str]:
    """A table in lines: heads, a rule, rows; a rule before each row in `rules`, lines `below` each row."""
    wide = width_of(columns, gap)
    tall = max(len(column.head) for column in columns)
    heads = [("",) * (tall - len(column.head)) + column.head for column in columns]
    lines = [_joined([head[row] for head in heads], columns, gap) for row in range(tall)]
    lines.append("─" * wide)
    for row in range(len(columns[0].cells)):
        if row in rules:
            lines.append("─" * wide)
        cells = [column.cells[row] for column in columns]
        for part in range(max(map(len, cells))):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            lines.append(_joined(texts, columns, gap))
        lines += below[row] if below else []
    return lines


def _joined(texts: Sequence[str], columns: Sequence[Column], gap: int) -> str:
    padded = []
    for text, column in zip(texts, columns, strict=True):
        room = " " * (column.width - cell_len(text))
        padded.append(room + text if column.right else text + room)
    return (" " * gap).join(padded).rstrip()


def filled(items: Sequence[str], width: int, between: str = ", ") -> list[str]:
    """Items in as few lines as fit in `width`, none broken; one that is wider has a line of its own."""
    lines: list[str] = []
    for number, item in enumerate(items, start=1):
        joined = f"{lines[-1]}{between}{item}" if lines else item
        room = width - (cell_len(between.rstrip()) if number < len(items) else 0)
        if lines and cell_len(joined) > room:
            lines[-1] += between.rstrip()
            lines.append(item)
        else:
            lines[-1:] = [joined]
    return lines


def in_pieces(name: str, width: int) -> tuple[str, ...]:
    """The name of a metric in lines of about `width`, broken before dots, after underscores and at blanks.

    Not at the blank before a percent sign, which would stand alone.
    """
    pieces = re.split(r"(?<=_)|(?=\.)|(?<= )(?!%)", name)
    lines: list[str] = []
    for piece in pieces:
        if lines and cell_len((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return tuple(line.rstrip() for line in lines if line.strip())


def prose(text: str, width: int, indent: str = "") -> list[str]:
    """Text in lines of at most `width`, broken between words; longer words stay whole."""
    lines = []
    for part in text.split("\n"):
        found = textwrap.wrap(
            part,
            max(width, 20),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += found or [""]
    return lines
