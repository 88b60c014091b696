"""`kinship`, `align` and `barrier`: what two models' weights have to do with each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.cli.output import Json, plain, print_json, say, show_log, table_console
from evomerge.errors import CheckpointError, Problem, UsageError

Residual = Annotated[
    bool,
    typer.Option(
        "--residual/--no-residual",
        help="Permute the residual stream too; models of one ancestor share its order.",
    ),
]

Mix = Annotated[
    float,
    typer.Option(
        "--mix",
        metavar="SHARE",
        min=0.0,
        max=1.0,
        help="Share of the weights in what is compared (MuDSC); the rest is what units do on the text.",
    ),
]


def kinship(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="The base of all of them.", show_default=False)
    ],
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL", help="Two fine-tunes or adapters of it, or more.", show_default=False
        ),
    ],
    as_json: Json = False,
) -> None:
    """Measure how similar fine-tuned models are.

    Cosine, correlation, distance and signs of their task vectors.
    """
    from evomerge.checkpoint.compare import compare_with_base
    from evomerge.checkpoint.folder import open_folder
    from evomerge.checkpoint.open import open_source

    show_log()
    if len(models) < 2:
        wrong, todo = "kinship is that of two models or more", "give another MODEL"
        raise UsageError(Problem("E500", wrong, f"found {models[0]} only", todo))
    origin = open_folder(base, "base")
    folders = {_name(path, models): open_source(path, path.name, origin) for path in models}
    problems = compare_with_base(origin, list(folders.values()))
    if problems:
        raise CheckpointError(problems)
    from evomerge.checkpoint.reader import open_readers
    from evomerge.merge.statistics.kinship import KINDS
    from evomerge.merge.statistics.kinship import kinship as measured

    readers = open_readers({"base": origin, **folders})
    tensors = [name for name, header in origin.tensors.items() if header.is_float]
    found = measured(readers["base"], {name: readers[name] for name in folders}, tensors)
    if as_json:
        data: dict[str, Any] = {"models": list(found.names), "norms": _numbers(found.norms)}
        data |= {kind: [_numbers(row) for row in getattr(found, kind)] for kind in KINDS}
        data["kinship"] = {kind: _numbers([found.mean(kind)])[0] for kind in KINDS}
        print_json(data)
        return
    console = table_console()
    for i, first in enumerate(found.names):
        for j in range(i + 1, len(found.names)):
            values = ", ".join(f"{kind} {getattr(found, kind)[i, j]:.4f}" for kind in KINDS)
            console.print(plain(f"{first} · {found.names[j]}: {values}"), markup=False, soft_wrap=True)
    norms = ", ".join(f"{name} {norm:.4g}" for name, norm in zip(found.names, found.norms, strict=True))
    console.print(plain(f"norms of task vectors: {norms}"), markup=False, soft_wrap=True)
    means = ", ".join(f"{kind} {found.mean(kind):.4f}" for kind in KINDS)
    console.print(plain(f"model kinship, the mean over pairs: {means}"), markup=False, soft_wrap=True)


def align(
    anchor: Annotated[
        Path,
        typer.Argument(
            metavar="ANCHOR", help="The model whose order of units is taken.", show_default=False
        ),
    ],
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="The model that is put in that order.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)
    ],
    residual: Residual = True,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Compare what units do on this text too, an item a line; with --mix below 1.",
            show_default=False,
        ),
    ] = None,
    mix: Mix = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Permute a model's units to match another model's.

    Its outputs stay the same, and its weights can be merged with the other's.
    """
    from evomerge.export.stated import refuse_comparison

    show_log()
    refuse_comparison(anchor, model, text, mix, out, overwrite=overwrite)
    from evomerge.export.aligned import write_aligned

    found = write_aligned(
        anchor, model, out, residual=residual, text=text, mix=mix, overwrite=overwrite
    )
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    say(f"wrote {out}: {_moved(found.moved)}")


def barrier(
    first: Annotated[Path, typer.Argument(metavar="A", help="A model folder.", show_default=False)],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another model folder.", show_default=False)
    ],
    text: Annotated[
        Path,
        typer.Option("--text", metavar="FILE", help="A text file, an item a line.", show_default=False),
    ],
    points: Annotated[
        int, typer.Option(metavar="N", min=3, help="Models on the line, both ends among them.")
    ] = 11,
    residual: Residual = True,
    mix: Mix = 1.0,
    as_json: Json = False,
) -> None:
    """Measure the loss on the line between two models.

    Before and after B is aligned with A.
    """
    from evomerge.export.stated import refuse_comparison

    show_log()
    refuse_comparison(first, second, text, mix)
    from evomerge.export.aligned import measure_barrier

    found = measure_barrier(first, second, text, points=points, residual=residual, mix=mix)
    if as_json:
        data = dataclasses.asdict(found)
        for kind in ("plain", "aligned"):
            data[kind]["barrier"] = getattr(found, kind).barrier
        print_json(data)
        return
    console = table_console()
    console.print("share of B   loss   loss, B aligned", markup=False)
    rows = zip(found.plain.shares, found.plain.losses, found.aligned.losses, strict=True)
    for share, loss, other in rows:
        console.print(f"{share:10.2f} {loss:7.4f}   {other:7.4f}", markup=False)
    console.print(
        f"barrier: {found.plain.barrier:.4f}, with B aligned {found.aligned.barrier:.4f} nats a token",
        markup=False,
    )
    console.print(plain(_moved(found.alignment.moved)), markup=False, soft_wrap=True)


def _moved(moved: dict[str, tuple[int, int]]) -> str:
    return "moved " + ", ".join(f"{a} of {b} {kind}" for kind, (a, b) in moved.items())


def _name(path: Path, others: list[Path]) -> str:
    """A folder's own name where that tells it apart."""
    own = path.resolve().name
    return own if sum(each.resolve().name == own for each in others) == 1 else str(path)


def _numbers(values: Any) -> list[float | None]:
    return [float(v) if v == v else None for v in values]
