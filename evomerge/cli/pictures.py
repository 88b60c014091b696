"""The verbs `history` and `plot`: how a search went, in numbers and in pictures."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.output import PICK_HELP, Folder, Json, plain, print_json, say, table_console
from evomerge.errors import GO_ON, Problem, UsageError

ROWS = 16
"""Rows of a history that are shown in a terminal."""


class Kind(StrEnum):
    """What to draw."""

    FRONT = "front"
    HISTORY = "history"
    HEATMAP = "heatmap"


def history(
    directory: Folder,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line for each result.")] = False,
) -> None:
    """Show how a search went.

    Hypervolume and best scores against evaluations, items and seconds.
    """
    from evomerge.front.folder import open_campaign_folder
    from evomerge.front.tables import shown_value
    from evomerge.front.text_table import Column, filled, prose, table_lines
    from evomerge.front.trace import sparkline, spread_out, trace, trace_csv, trace_records

    if as_json and as_csv:
        raise UsageError(Problem("E500", "--json and --csv exclude each other", todo="give one"))
    opened = open_campaign_folder(directory)
    objectives = opened.history.stated.objectives
    points = trace(opened.history, opened.events, objectives)
    if as_csv:
        sys.stdout.write(trace_csv(points, objectives))
        return
    if as_json:
        head, rows = trace_records(points, objectives)
        print_json({"campaign": opened.history.stated.name, "columns": head, "rows": rows})
        return
    if not points:
        raise _nothing_yet()
    console = table_console()
    shown = spread_out(points, ROWS)
    heads = ["evaluations", "items", "seconds", "hypervolume", *(o.metric for o in objectives)]
    cells = [
        [
            f"{p.evaluations:g}",
            str(p.items),
            f"{p.seconds:.0f}",
            f"{p.hypervolume:.4f}",
            *(
                "" if v is None else shown_value(o.metric, v)
                for o, v in zip(objectives, p.best, strict=True)
            ),
        ]
        for p in shown
    ]
    columns = [
        Column((head,), tuple((row[index],) for row in cells), right=True)
        for index, head in enumerate(heads)
    ]
    volumes = [point.hypervolume for point in points]
    akin = [point.kinship for point in points if point.kinship is not None]
    name = opened.history.stated.name
    about = f"{name}: {len(points)} results, search scores; best so far of each objective"
    lines = [*prose(about, console.width)]
    lines.append(f"hypervolume {sparkline(volumes, min(60, console.width - 13))}")
    if akin:
        lines.append(f"kinship     {sparkline(akin, min(60, console.width - 13))}")
        half = akin[len(akin) // 2 :]
        means = f"of parents {sum(akin) / len(akin):.3f} on average, {sum(half) / len(half):.3f} later"
        lines += prose(f"kinship {means}; near 1 merges are of the same stock", console.width)
    table = table_lines(columns, 2)
    if max(map(len, table)) > console.width:
        # Too many objectives for a line: the best scores go below the numbers of each row.
        below = [
            [f"  {line}" for line in filled(_named(heads[4:], row[4:]), console.width - 2)]
            for row in cells
        ]
        table = table_lines(columns[:4], 2, below=below)
    for line in [*lines, "", *table]:
        console.print(plain(line), markup=False, soft_wrap=True)


def _nothing_yet() -> UsageError:
    return UsageError(Problem("E507", "there is no history yet", "nothing is searched", GO_ON))


def _named(heads: list[str], cells: list[str]) -> list[str]:
    return [f"{head} {cell}" for head, cell in zip(heads, cells, strict=True) if cell]


def plot(
    directory: Folder,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .png, .svg or .pdf.")
    ],
    kind: Annotated[Kind, typer.Option(help="What to draw.")] = Kind.FRONT,
    choice: Annotated[
        str, typer.Option("--pick", metavar="PICK", help=f"For heatmap. {PICK_HELP}")
    ] = "knee",
) -> None:
    """Draw a front, a history or a member's coefficients for a paper."""
    from evomerge.front import pictures
    from evomerge.front.folder import open_campaign_folder

    pictures.check_name(output)
    opened = open_campaign_folder(directory)
    if kind is Kind.FRONT:
        figure = pictures.front_figure(opened.front())
    elif kind is Kind.HISTORY:
        from evomerge.front.trace import trace

        objectives = opened.history.stated.objectives
        points = trace(opened.history, opened.events, objectives)
        if not points:
            raise _nothing_yet()
        figure = pictures.history_figure(opened.history.stated.name, points, objectives)
    else:
        from evomerge.campaign.recorded import recorded_recipe
        from evomerge.front.candidate import find_candidate

        candidate = find_candidate(opened.history, opened.front, choice)
        prepared = opened.history.prepared
        if prepared is None:
            raise UsageError(Problem("E507", "the campaign is not prepared yet", todo=GO_ON))
        recipe = recorded_recipe(opened.history, candidate)
        layout = prepared.layout
        figure = pictures.heatmap_figure(candidate.id, recipe, layout.layers, layout.places)
    pictures.save(figure, output)
    say(f"wrote {output}")
