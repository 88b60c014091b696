"""The verb `compare`: two models of a campaign, item by item."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.output import Folder, Json, plain, print_json, table_console
from evomerge.errors import EvomergeError, Problem, UsageError

if TYPE_CHECKING:
    from evomerge.front.comparison import Comparison, TaskComparison
    from evomerge.front.folder import OpenedFolder
    from evomerge.ledger.candidate import Candidate
    from evomerge.ledger.history import History

SIDE_HELP = "A pick, an id, a baseline, or the folder of an export."
MOST_GENES = 8
"""Genes listed, those that differ most."""

TEXT = 300
"""Characters of an item's text that are shown."""


def compare(
    directory: Folder,
    first: Annotated[str, typer.Argument(metavar="A", help=SIDE_HELP, show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help=SIDE_HELP, show_default=False)],
    items: Annotated[
        int, typer.Option(metavar="N", min=0, help="Items to show of each task, won and lost.")
    ] = 2,
    as_json: Json = False,
) -> None:
    """Compare two models item by item.

    Items won and lost by task, how certain the difference is, and the coefficients of both.
    """
    from evomerge.front.comparison import compare as compared
    from evomerge.front.folder import open_campaign_folder
    from evomerge.ledger.history import ITEMS_FOLDER
    from evomerge.ledger.item_store import ItemStore

    opened = open_campaign_folder(directory)
    history = opened.history
    a, b = (_side(opened, text) for text in (first, second))
    objectives = history.stated.objectives
    found = compared(history, ItemStore(directory / ITEMS_FOLDER), objectives, a, b)
    genes = _genes(history, a, b)
    texts, why = _texts(history, found, items) if items else ({}, {})
    if as_json:
        data = found.to_json() | {"genes": genes, "texts": texts, "texts_missing": why}
        print_json(data)
        return
    console = table_console()
    for line in _lines(found, genes, texts, why, items, console.width):
        console.print(plain(line), markup=False, soft_wrap=True)


def _side(opened: OpenedFolder, text: str) -> Candidate:
    """The candidate that a pick, an id or the folder of an export names.

    Raises:
        UsageError: E506 and E507 as `find_candidate`; E506 for a folder that is no export of this campaign.
    """
    from evomerge.export.files import MANIFEST_FILE
    from evomerge.front.candidate import find_candidate

    history, folder = opened.history, Path(text)
    if text in history.candidates or not folder.is_dir():
        return find_candidate(history, opened.front, text)
    manifest = folder / MANIFEST_FILE
    todo = "give an export of this campaign; `evomerge score` scores any checkpoint"
    try:
        stated = json.loads(manifest.read_text(encoding="utf-8"))
        digest, name = stated["recipe"], stated.get("candidate")
    except (OSError, ValueError, KeyError, TypeError):
        wrong = "this folder is no export"
        raise UsageError(Problem("E506", wrong, f"no recipe in {MANIFEST_FILE}", todo, text)) from None
    same = [c for c in history.candidates.values() if c.recipe == digest and c.evaluations]
    if not same:
        wrong, found = "this export was not scored in this campaign", f"recipe {str(digest)[:12]}"
        raise UsageError(Problem("E506", wrong, found, todo, text))
    # The export of a member that is a baseline goes by the member's name.
    return next((candidate for candidate in same if candidate.id == name), same[0])


def _genes(history: History, a: Candidate, b: Candidate) -> dict[str, list[float]] | None:
    """Gene to its values in both models; None where one has no genome in the space."""
    from evomerge.campaign.recorded import recorded_recipe, recorded_space

    if history.prepared is None:
        return None
    space = recorded_space(history)
    genomes = [c.genome or space.encode(recorded_recipe(history, c)) for c in (a, b)]
    if genomes[0] is None or genomes[1] is None:
        return None
    pairs = zip(space.genes, genomes[0], genomes[1], strict=True)
    return {gene.name: [x, y] for gene, x, y in pairs}


def _texts(
    history: History, found: Comparison, most: int
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """By evaluator the texts of the items that would be shown, by number; and why some have none."""
    from evomerge.campaign.campaign import campaign_from_json
    from evomerge.evaluators.item_texts import item_texts
    from evomerge.evaluators.kinds import load_declaration

    assert history.prepared is not None
    texts: dict[str, dict[str, str]] = {}
    why: dict[str, str] = {}
    wanted: dict[str, set[int]] = {}
    for task in found.tasks:
        name = task.objective.metric.split(".")[0]
        wanted.setdefault(name, set()).update(_some(task.won, most), _some(task.lost, most))
    for file in campaign_from_json(history.config).evaluator_files:
        try:
            declared = load_declaration(file)
            name = declared.name
            if not wanted.get(name):
                continue
            if history.prepared.digest_of(name) != declared.digest():
                why[name] = "the evaluator changed since the campaign began"
                continue
            every = item_texts(declared, found.split)
            texts[name] = {str(number): every[number] for number in sorted(wanted[name])}
        except (EvomergeError, LookupError, OSError, ValueError) as error:
            why[file.stem] = str(error)
    return texts, why


def _some(numbers: tuple[int, ...] | None, most: int) -> tuple[int, ...]:
    return () if numbers is None else numbers[:most]


def _lines(
    found: Comparison,
    genes: dict[str, list[float]] | None,
    texts: dict[str, dict[str, str]],
    why: dict[str, str],
    items: int,
    width: int,
) -> list[str]:
    from evomerge.front.text_table import prose

    rows = [_row(task) for task in found.tasks]
    if found.mean is not None:
        probability = _probability(found.probability_better_mean)
        rows.append(["mean %", "", "", _difference("mean", found.mean), probability, "", ""])
    intro = (
        f"{found.a} against {found.b} on {found.split} items that both answered, with 95 % intervals"
    )
    lines = [*prose(intro, width), "", *_table(found, rows, width)]
    for task in found.tasks:
        name = task.objective.metric.split(".")[0]
        for word, numbers in (("won", task.won), ("lost", task.lost)):
            shown = [(n, texts.get(name, {}).get(str(n))) for n in _some(numbers, items)]
            kept = [(n, text) for n, text in shown if text is not None]
            if not kept:
                continue
            total = len(numbers or ())
            some = "all" if total == len(kept) else f"{len(kept)} of"
            lines += ["", f"{task.objective.metric}: {word} by {found.a}, {some} {total} items"]
            for number, text in kept:
                cut = text if len(text) <= TEXT else f"{text[:TEXT]} ..."
                lines += prose(f"  {number}: {cut}", width, indent="    ")
    for name, reason in why.items():
        lines += ["", *prose(f"no text of the items of {name}: {reason}", width)]
    return [*lines, "", *_gene_lines(found, genes, width)]


def _gene_lines(found: Comparison, genes: dict[str, list[float]] | None, width: int) -> list[str]:
    from evomerge.front.text_table import prose

    if genes is None:
        return prose("no coefficients to compare: one of them lies outside the search space", width)
    differing = [name for name, (x, y) in genes.items() if x != y]
    if not differing:
        return ["their coefficients are the same"]
    ordered = sorted(differing, key=lambda name: -abs(genes[name][0] - genes[name][1]))
    lines = _side_by_side("mean of", found, _means(genes))
    lines += ["", *_side_by_side("gene", found, {n: genes[n] for n in ordered[:MOST_GENES]})]
    left = len(ordered) - MOST_GENES
    return [*lines, *([f"and {left} other genes differ; --json has them all"] if left > 0 else [])]


def _means(genes: dict[str, list[float]]) -> dict[str, list[float]]:
    """Coefficient and expert (`weight.math`) to the mean over its genes, in both models."""
    grouped: dict[str, list[list[float]]] = {}
    for name, pair in genes.items():
        grouped.setdefault(".".join(name.split(".")[:2]), []).append(pair)
    return {
        name: [sum(pair[side] for pair in pairs) / len(pairs) for side in (0, 1)]
        for name, pairs in grouped.items()
    }


def _side_by_side(what: str, found: Comparison, values: dict[str, list[float]]) -> list[str]:
    from evomerge.front.text_table import Column, table_lines

    rows = [(n, f"{x:.4g}", f"{y:.4g}", f"{x - y:+.3g}") for n, (x, y) in values.items()]
    heads = (what, found.a, found.b, "difference")
    return table_lines(
        [
            Column((head,), tuple((row[index],) for row in rows), right=index > 0)
            for index, head in enumerate(heads)
        ],
        3,
    )


def _table(found: Comparison, rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Scores side by side, as roomy as `width` allows; names are broken where a person would break them."""
    from evomerge.front.tables import NARROW_NAME
    from evomerge.front.text_table import Column, in_pieces, table_lines, width_of

    a, b = found.a, found.b
    whole = (("score",), (a,), (b,), (f"{a} − {b}",), (f"P({a} better)",), ("won",), ("lost",))
    broken = (("score",), (a,), (b,), (f"{a} −", b), (f"P({a}", "better)"), ("won",), ("lost",))
    for heads, compact, gap in ((whole, False, 3), (broken, False, 2), (broken, True, 1)):
        cells = [[text.replace(" ± ", "±") if compact else text for text in row] for row in rows]
        names = [(row[0],) if heads is whole else in_pieces(row[0], NARROW_NAME) for row in cells]
        columns = [Column(heads[0], tuple(names))]
        for index, head in enumerate(heads[1:], start=1):
            columns.append(Column(head, tuple((row[index],) for row in cells), right=True))
        if width_of(columns, gap) <= width:
            break
    return table_lines(columns, gap)


def _row(task: TaskComparison) -> list[str]:
    from evomerge.front.tables import shown_metric
    from evomerge.objectives.measures import is_fraction

    metric = task.objective.metric
    name = f"{metric} %" if is_fraction(metric) else metric
    counts = ["" if items is None else str(len(items)) for items in (task.won, task.lost)]
    difference = "" if task.difference is None else _difference(metric, task.difference)
    scores = [shown_metric(metric, score) for score in (task.a, task.b)]
    return [name, *scores, difference, _probability(task.probability_better), *counts]


def _difference(metric: str, found: Any) -> str:
    from evomerge.front.statistics import Interval
    from evomerge.front.tables import shown_interval

    return shown_interval(metric, Interval(found.difference, found.low, found.high))


def _probability(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
