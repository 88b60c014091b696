"""Starter: a campaign folder that runs as it stands, for `evomerge init`.

Everything in it is made by code, so that an installed wheel needs no data files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.cli.starter import toy_models
from evomerge.cli.starter.tasks import TASKS, write_tasks
from evomerge.cli.starter.texts import (
    CAMPAIGN,
    EVALUATOR,
    OWN_TASKS,
    SEARCH_SPACE,
    TOY_TASKS,
    models_block,
    tasks_block,
)
from evomerge.errors import ConfigError, EnvironmentFault, Problem
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.evaluators.splits import BENCHMARK_NOTE, items_to_search, make_splits
from evomerge.files.storage import cannot_write

CAMPAIGN_FILE = "campaign.yaml"


@dataclass(frozen=True)
class OwnTasks:
    """lm-eval tasks that a person names; the fields are those of `make_splits`."""

    names: Sequence[str]
    include_path: Path | None = None
    download: bool = False
    allow_code: bool = False


def write_starter(
    directory: Path,
    base: Mapping[str, str] | None,
    experts: Mapping[str, Mapping[str, str]],
    *,
    tasks: OwnTasks | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a starter campaign; it appears whole or not at all. In a folder that exists its file comes last.

    Args:
        directory: a new or empty folder.
        base: fields of the base's reference (`path`, or `hub` and `revision`); None to train toy models.
        experts: name to reference; empty with toy models.
        tasks: what is searched for; None for toy tasks.
        tell: is told what is being done, a line each.

    Returns:
        The campaign file.

    Raises:
        ConfigError: E135, if the folder is not empty; E116, E117 or E136 for the experts; as `make_splits`.
        EnvironmentFault: if it cannot be written.
    """
    _refuse_used(directory)
    # A folder that is there may be the one we are in, or a mount: no other can take its place.
    is_there = directory.exists()
    try:
        parent = directory if is_there else directory.parent
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=parent))
    except OSError as error:
        raise cannot_write(directory, error) from error
    try:
        _fill(made, directory, base, experts, tasks, tell)
        if is_there:
            for path in sorted(made.iterdir(), key=lambda path: path.name == CAMPAIGN_FILE):
                os.replace(path, directory / path.name)
        else:
            made.chmod(0o755)
            os.replace(made, directory)
    except OSError as error:
        raise cannot_write(directory, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return directory / CAMPAIGN_FILE


def _refuse_used(directory: Path) -> None:
    todo = "choose a new or empty folder"
    if directory.exists() and not directory.is_dir():
        raise ConfigError(Problem("E135", "this is a file", "", todo, str(directory)))
    held = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
    if held:
        found = f"{len(held)} files, {held[0]} for one"
        raise ConfigError(Problem("E135", "the folder is not empty", found, todo, str(directory)))
    if directory.is_symlink():
        raise EnvironmentFault(Problem("E408", "the folder is a link", "", todo, str(directory)))


def _fill(
    folder: Path,
    final: Path,
    base: Mapping[str, str] | None,
    experts: Mapping[str, Mapping[str, str]],
    tasks: OwnTasks | None,
    tell: Callable[[str], None],
) -> None:
    from evomerge.campaign.campaign import load_campaign

    toys = base is None
    if base is None:
        base = {"path": "models/base"}
        experts = {task: {"path": f"models/{task}"} for task in TASKS}
    stated = _toy_tasks(folder) if tasks is None else _split_tasks(folder, tasks, tell)
    if tasks is None and not toys:
        tell("no --task given: the evaluators are toy tasks, which say little about your models")
    text = CAMPAIGN.format(
        file=final / CAMPAIGN_FILE,
        models=models_block(
            _relative(base, final), {n: _relative(place, final) for n, place in experts.items()}
        ),
        tasks=stated,
        evaluations=40 if toys else 60,
        dtype="float32" if toys else "bfloat16",
    )
    (folder / "search_space.yaml").write_text(SEARCH_SPACE, encoding="utf-8")
    (folder / CAMPAIGN_FILE).write_text(text, encoding="utf-8")
    _write_schemas(folder / "schemas")
    try:
        load_campaign(folder / CAMPAIGN_FILE)
    except ConfigError as error:
        # The file is ours and about to be removed: the fault lies in what was asked for.
        raise ConfigError(Problem(p.code, p.wrong, p.found, p.todo) for p in error.problems) from None
    if toys:
        tell("no --base given: training toy models, in less than a minute")
        toy_models.write_toy_models(folder / "models", tell)


def _write_schemas(folder: Path) -> None:
    """What the first lines of the files name, so that an editor knows their fields."""
    from evomerge.campaign.schema import SCHEMAS

    folder.mkdir()
    for name, schema in SCHEMAS.items():
        text = json.dumps(schema(), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _toy_tasks(folder: Path) -> str:
    """Write the toy tasks; gives the fields of the campaign that name them."""
    evaluators = folder / "evaluators"
    write_tasks(evaluators / "tasks")
    for task in TASKS:
        (evaluators / f"{task}.yaml").write_text(EVALUATOR.format(name=task), encoding="utf-8")
    files = [f"evaluators/{task}.yaml" for task in TASKS]
    return tasks_block(TOY_TASKS, files, {f"{task}.acc": "maximize" for task in TASKS})


def _split_tasks(folder: Path, tasks: OwnTasks, tell: Callable[[str], None]) -> str:
    """Split each task into its evaluator; gives the fields of the campaign that name them.

    The first metric of a task is its objective.
    """
    files: list[str] = []
    objectives: dict[str, str] = {}
    for name in tasks.names:
        report = make_splits(
            name,
            folder / "evaluators" / name,
            include_path=tasks.include_path,
            items=items_to_search(name, tasks.include_path),
            allow_code=tasks.allow_code,
            download=tasks.download,
        )
        counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
        tell(f"task {name}: {counts} items")
        if report.benchmark:
            tell(f"warning: {report.benchmark} is scored on these items; {BENCHMARK_NOTE}")
        files.append(f"evaluators/{name}/{name}.yaml")
        metric, higher = next(iter(load_evaluator(report.declaration).directions().items()))
        objectives[metric] = "minimize" if higher is False else "maximize"
    return tasks_block(OWN_TASKS, files, objectives)


def _relative(reference: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A reference whose path is relative to the campaign's folder, so that both move together."""
    if not os.path.isabs(reference.get("path", "")):
        return dict(reference)
    return {**reference, "path": os.path.relpath(reference["path"], os.path.realpath(folder))}
