"""lm-eval's `results_*.json` of what was scored here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.output import say
from evomerge.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from evomerge.evaluators.results_file import ScoredModel
    from evomerge.front.folder import OpenedFolder
    from evomerge.front.front import Front
    from evomerge.objectives.scores import Metric, Split

LmEvalJson = Annotated[
    Path | None,
    typer.Option(
        "--lm-eval-json",
        metavar="PLACE",
        help="Also write lm-eval's results JSON: a folder, or a file that ends in .json.",
        show_default=False,
    ),
]


def write_front_results(opened: OpenedFolder, front: Front, place: Path) -> list[Path]:
    """One results file for each member of a front and each baseline beside it, every split it has.

    Raises:
        ConfigError: E135, if `place` is a single file; E504, if an evaluator changed since the scores.
    """
    from evomerge.campaign.campaign import campaign_from_json
    from evomerge.evaluators.kinds import load_declaration
    from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration
    from evomerge.evaluators.results_file import ScoredModel, results_json
    from evomerge.objectives.scores import SPLITS

    if place.suffix == ".json":
        problem = Problem("E135", "a front has several models", f"found {place}", "name a folder")
        raise ConfigError(problem)
    history = opened.history
    campaign = campaign_from_json(history.config)
    prepared = history.prepared
    assert prepared is not None
    every = [load_declaration(file) for file in campaign.evaluator_files]
    # lm-eval knows of its own tasks only.
    declarations = [each for each in every if isinstance(each, LmEvalDeclaration)]
    for declared in declarations:
        if prepared.digest_of(declared.name) != declared.digest():
            wrong = f"evaluator `{declared.name}` changed since the campaign began"
            raise ConfigError(Problem("E504", wrong, "", "restore it", field=declared.name))
    evaluation = campaign.config.evaluation
    written = []
    for member in (*front.members, *front.references):
        seconds = [sum(e.seconds.values()) for e in history.candidates[member.id].evaluations.values()]
        model = ScoredModel(
            name=f"{front.campaign}/{member.id}",
            dtype=evaluation.dtype,
            batch_size=evaluation.batch_size,
            device=evaluation.device,
            date=history.last,
            seconds=sum(seconds),
            recipe=member.recipe,
        )
        scores = {split: member.metrics[split] for split in SPLITS if split in member.metrics}
        written.append(_write(place, model, results_json(model, declarations, scores)))
    return written


def refuse_other_kinds(evaluator: Path) -> None:
    """See that an evaluator is made of lm-eval tasks, before anything is scored.

    Raises:
        ConfigError: if the file is faulty.
        UsageError: E500, if it is of another kind.
    """
    from evomerge.evaluators.kinds import load_declaration
    from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration

    declared = load_declaration(evaluator)
    if not isinstance(declared, LmEvalDeclaration):
        wrong, found = "lm-eval's results hold lm-eval tasks only", f"its kind is `{declared.kind}`"
        raise UsageError(Problem("E500", wrong, found, "leave --lm-eval-json out", str(evaluator)))


def write_score_results(
    place: Path, model: ScoredModel, evaluator: Path, split: Split, metrics: Mapping[str, Metric]
) -> Path:
    """The results file of one scored checkpoint."""
    from evomerge.evaluators.lm_eval_declaration import load_evaluator
    from evomerge.evaluators.results_file import results_json

    return _write(place, model, results_json(model, [load_evaluator(evaluator)], {split: metrics}))


def _write(place: Path, model: ScoredModel, data: dict[str, object]) -> Path:
    from evomerge.evaluators.results_file import write_results
    from evomerge.files.storage import cannot_write

    try:
        path = write_results(place, model, data)
    except OSError as error:
        raise cannot_write(place, error) from error
    say(f"wrote {path}")
    return path
