"""`export`, `merge` and `score`: verbs that make or judge one checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evomerge.cli.output import (
    PICK_HELP,
    AllowTaskCode,
    Json,
    plain,
    print_json,
    say,
    show_log,
    table_console,
)
from evomerge.cli.results import LmEvalJson, refuse_other_kinds, write_score_results
from evomerge.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from evomerge.export.export import ExportReport

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
TokenizerFrom = Annotated[
    str | None,
    typer.Option(
        "--tokenizer-from",
        metavar="EXPERT",
        help="Take tokenizer, special tokens and generation settings from this model of the merge.",
    ),
]
TemplateFrom = Annotated[
    str | None,
    typer.Option(
        "--chat-template-from", metavar="EXPERT", help="Take the chat template from this model."
    ),
]
ShardBytes = Annotated[
    int, typer.Option(metavar="BYTES", min=1, help="Largest size of one weight file.")
]


def export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The campaign folder.", show_default=False)
    ],
    choice: Annotated[
        str,
        typer.Argument(
            metavar="PICK",
            help=PICK_HELP,
            show_default=False,
        ),
    ],
    out: Out,
    overwrite: Overwrite = False,
    shard_bytes: ShardBytes = 5_000_000_000,
    rescore: Annotated[
        bool, typer.Option("--rescore/--no-rescore", help="Score the result on test items.")
    ] = True,
    tokenizer_from: TokenizerFrom = None,
    chat_template_from: TemplateFrom = None,
    allow_task_code: AllowTaskCode = False,
    as_json: Json = False,
) -> None:
    """Write a candidate as a checkpoint, checked by reloading it."""
    from evomerge.export.stated import refuse_export
    from evomerge.export.taken import Taken
    from evomerge.front.folder import open_campaign_folder

    show_log()
    open_campaign_folder(directory)
    taken = Taken(tokenizer_from, chat_template_from)
    refuse_export(directory, choice, out, overwrite=overwrite, taken=taken)
    from evomerge.export.export import export_candidate

    _hide_loading_bars()
    report = export_candidate(
        directory,
        choice,
        out,
        overwrite=overwrite,
        shard_bytes=shard_bytes,
        rescore=rescore,
        allow_task_code=allow_task_code,
        taken=taken,
    )
    _print_report(report, out, as_json)


def merge(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A recipe (JSON) or a mergekit YAML.", show_default=False
        ),
    ],
    out: Out,
    overwrite: Overwrite = False,
    shard_bytes: ShardBytes = 5_000_000_000,
    tokenizer_from: TokenizerFrom = None,
    chat_template_from: TemplateFrom = None,
    rope: Annotated[
        str,
        typer.Option(
            "--rope",
            metavar="NAME",
            help="The source whose rotary positions the result has, where they differ.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Write the checkpoint of one recipe or mergekit YAML."""
    from evomerge.export.stated import refuse_merge
    from evomerge.export.taken import Taken

    show_log()
    taken = Taken(tokenizer_from, chat_template_from)
    refuse_merge(recipe, out, overwrite=overwrite, taken=taken, rope=rope)
    from evomerge.export.export import merge_recipe

    _hide_loading_bars()
    report = merge_recipe(
        recipe, out, overwrite=overwrite, shard_bytes=shard_bytes, taken=taken, rope=rope
    )
    _print_report(report, out, as_json)


def import_(
    genome: Annotated[
        Path,
        typer.Argument(metavar="GENOME", help="A mergekit-evolve file.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The campaign folder.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Turn a mergekit-evolve file into a campaign folder."""
    from evomerge.mergekit.genome import import_genome

    imported = import_genome(genome, out)
    if as_json:
        print_json({"out": out.name, "files": imported.files, "left_out": imported.left_out})
        return
    console = table_console()
    console.print(plain(f"wrote {out}: {', '.join(imported.files)}"), markup=False, soft_wrap=True)
    for text in imported.left_out:
        say(f"not carried over: {text}")
    say(f"next: split the tasks as {out / 'campaign.yaml'} says, then `evomerge check` it")


def _print_report(report: ExportReport, out: Path, as_json: bool) -> None:
    from evomerge.front.tables import scores_lines
    from evomerge.front.words import duration, size

    if as_json:
        print_json(report.to_json())
        return
    for warning in report.warnings:
        say(f"warning: {warning}")
    console = table_console()

    def tell(text: str) -> None:
        console.print(plain(text), markup=False, soft_wrap=True)

    written = size(float(sum(report.files.values())))
    tell(f"wrote {out}: {len(report.files)} files, {written}, in {duration(report.seconds)}")
    if report.candidate is not None:
        tell(f"candidate {report.candidate}, recipe {report.recipe}")
    if not report.scores:
        return
    tell("")
    for line in scores_lines(report.scores, console.width):
        tell(line)
    if report.test_uses:
        times = "once" if report.test_uses == 1 else f"{report.test_uses} times"
        tell(f"\ntest items of this campaign have now been used {times} by exports")


def score(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder, or org/name@COMMIT.", show_default=False),
    ],
    evaluator: Annotated[
        Path,
        typer.Argument(metavar="EVALUATOR", help="An evaluator file (YAML).", show_default=False),
    ],
    split: Annotated[
        Literal["search", "selection", "test"], typer.Option(help="Whose items.")
    ] = "test",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Dtype of the evaluation.")
    ] = "float32",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Rows of a batch.")] = 32,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `cuda:N`.")] = "cpu",
    base: Annotated[
        str | None, typer.Option(metavar="B", help="What distances are measured from.")
    ] = None,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(
            "--ensemble",
            metavar="MODEL",
            help="Average the logits with those of this model (may be repeated); no checkpoint does that.",
        ),
    ] = None,
    allow_task_code: AllowTaskCode = False,
    lm_eval_json: LmEvalJson = None,
    as_json: Json = False,
) -> None:
    """Score one checkpoint with one evaluator.

    Or several checkpoints as a logit ensemble. The code is that of a search, so that scores can be compared.
    """
    from evomerge.campaign.devices import check_device
    from evomerge.campaign.references import model_folder
    from evomerge.checkpoint.folder import open_folder
    from evomerge.evaluators.kinds import load_declaration
    from evomerge.front.tables import shown_metric
    from evomerge.run.scoring import score_checkpoint

    show_log()
    began = time.time()
    folder = model_folder(model, "MODEL")
    # What can be refused without torch is, before it takes its seconds to load.
    if problems := load_declaration(evaluator).problems(allow_code=allow_task_code):
        raise ConfigError(problems)
    open_folder(folder, folder.name)
    check_device(device)
    others = [model_folder(each, "--ensemble") for each in ensemble or ()]
    if others and lm_eval_json is not None:
        wrong, todo = "an ensemble is no model that lm-eval knows", "leave --lm-eval-json out"
        raise UsageError(Problem("E500", wrong, "", todo))
    if lm_eval_json is not None:
        refuse_other_kinds(evaluator)
    _hide_loading_bars()
    scores = score_checkpoint(
        folder,
        evaluator,
        split=split,
        dtype=dtype,
        batch_size=batch_size,
        device=device,
        base=None if base is None else model_folder(base, "--base"),
        ensemble=others,
        allow_task_code=allow_task_code,
    )
    if lm_eval_json is not None:
        from evomerge.evaluators.results_file import ScoredModel

        scored = ScoredModel(model, dtype, batch_size, device, began, time.time() - began)
        write_score_results(lm_eval_json, scored, evaluator, split, scores.metrics)
    if as_json:
        metrics = {name: metric.to_json() for name, metric in scores.metrics.items()}
        items = {name: values.tolist() for name, values in scores.items.items()}
        data = {"model": model, "split": split, "metrics": metrics, "items": items}
        print_json(data | ({"ensemble": ensemble} if ensemble else {}))
        return
    console = table_console()
    if others:
        words = f"logit ensemble of {1 + len(others)} models: no checkpoint, cannot be exported"
        console.print(words, markup=False)
    for name, metric in scores.metrics.items():
        shown = shown_metric(name, metric)
        console.print(f"{name}  {shown}  ({metric.items} {split} items)", markup=False)


def _hide_loading_bars() -> None:
    """Loading takes a moment and its bar says nothing; stderr is for problems."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
