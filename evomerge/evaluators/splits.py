"""Search, selection and test splits of any lm-eval task, written as lm-eval tasks of their own.

Each item goes into the split that the hash of its content names, so that equal items are never in two
splits, the splits do not depend on the order of the items, and an item that is added later moves no
other. What is written is complete: YAML, items as JSON lines and the Python the YAML names, so that
stock `lm_eval --include_path` gives every number again, whatever becomes of the original task.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.declaration import NAME
from evomerge.evaluators.items import SHARES, item_id, split_of
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.evaluators.task_files import (
    GENERATION_METRICS,
    SPLIT_RECORD,
    TaskFile,
    TaskFunction,
    cannot_load,
    find_installed,
    find_tasks,
    functions_of,
    installed_tasks,
)
from evomerge.objectives.scores import SPLITS, Split

Items = Literal["scored", "train", "validation", "test"]
EXAMPLES = 1000
"""Most worked examples that are kept for few-shot prompts, the first ones."""

BENCHMARK_NOTE = "a search on them needs --allow-benchmark-test"

RESERVED = 10
"""Percent of the items that become worked examples where a task takes them from its scored items."""

DATA_FIELDS = (
    "include", "task", "task_alias", "tag", "group", "dataset_path", "dataset_name", "dataset_kwargs",
    "custom_dataset", "training_split", "validation_split", "test_split", "fewshot_split",
    "process_docs", "metadata",
)  # fmt: skip
"""Fields of the original that say where its items come from; the splits have their own."""


@dataclass(frozen=True)
class SplitReport:
    """What was written.

    Attributes:
        declaration: the evaluator's file.
        digest: of the declaration, its tasks and items; a campaign's ledger records it.
        counts: items of each split; `examples` the worked examples beside them.
        files: relative paths, sorted.
        benchmark: the public benchmark whose scored items these are, if any.
    """

    declaration: Path
    digest: str
    counts: Mapping[Split, int]
    examples: int
    files: tuple[str, ...]
    benchmark: str | None


def make_splits(
    task: str,
    out: Path,
    *,
    name: str = "",
    include_path: Path | None = None,
    items: Items = "scored",
    shares: Sequence[int] = SHARES,
    allow_code: bool = False,
    download: bool = False,
) -> SplitReport:
    """Write the splits of a task and an evaluator declaration for them into a new folder.

    Args:
        task: name of an lm-eval task.
        out: the folder to make: `NAME.yaml` and `tasks/`.
        name: of the evaluator; the task's by default.
        include_path: folder of the task's file; without it the task is one installed with lm-eval.
        items: which items of the data set are split; `scored` are those lm-eval scores.
        shares: of search, selection and test, in percent.
        allow_code: whether the task may run the Python it names while its items are read.
        download: whether a data set that is not on this machine may be fetched.

    Raises:
        ConfigError: E123 no such task, or one that cannot be loaded; E126 it runs code; E128 a split
            would be empty; E135 `out` exists; E136 a bad name; E142 the task or its items cannot be
            written down; E144 its data set is not on this machine.
    """
    name = name or task
    if not NAME.fullmatch(name):
        raise ConfigError(Problem("E136", f"`{name}`: letters, digits, `_` and `-` only", field="name"))
    if len(shares) != len(SPLITS) or min(shares) <= 0:
        wrong, todo = "these are three numbers above 0", "50,25,25 for one"
        raise ConfigError(Problem("E128", wrong, f"found {list(shares)}", todo, field="shares"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            Problem("E135", "this is in the way", todo="name a new folder", file=str(out))
        )
    source = _find(task, include_path)
    if source.code and not allow_code:
        todo = "read that code; then allow it with --allow-task-code"
        wrong = f"task {task} runs code"
        raise ConfigError(
            Problem("E126", wrong, f"found {', '.join(source.code)}", todo, str(source.path))
        )
    docs, examples = _read(source, include_path or installed_tasks(), items, download)
    benchmark = source.benchmark if items == "scored" or _is_scored(source, items) else None
    chosen: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for doc in docs:
        chosen[split_of(item_id(doc), shares)].append(doc)
    if empty := [split for split in SPLITS if not chosen[split]]:
        found = f"{len(docs)} items, none of them for {', '.join(empty)}"
        raise ConfigError(
            Problem("E128", f"task {task} has too few items", found, file=str(source.path))
        )
    record = {"split_of": task, "items": items, "shares": list(shares), "benchmark": benchmark}
    try:
        _write(out, name, source, chosen, examples, record)
        declared = load_evaluator(out / f"{name}.yaml")
        _check_written(out, name, chosen, source, allow_code)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return SplitReport(
        declaration=out / f"{name}.yaml",
        digest=declared.digest(),
        counts={split: len(docs) for split, docs in chosen.items()},
        examples=len(examples),
        files=tuple(sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())),
        benchmark=benchmark,
    )


def _find(task: str, include_path: Path | None) -> TaskFile:
    tasks, unreadable = find_tasks(include_path) if include_path else find_installed([task])
    if task not in tasks:
        where = str(include_path) if include_path else "the tasks installed with lm-eval"
        found = "; ".join(f"{path.name} cannot be read: {why}" for path, why in unreadable.items())
        todo = "" if include_path else "give the folder of its file as --include-path"
        raise ConfigError(Problem("E123", f"no task `{task}` in {where}", found, todo))
    return tasks[task]


def items_to_search(task: str, include_path: Path | None = None) -> Items:
    """Which items of a task a search should see: its training items where the scored ones are a benchmark's.

    Raises:
        ConfigError: E123 no such task.
    """
    source = _find(task, include_path)
    trains = source.benchmark is not None and source.config.get("training_split")
    return "train" if trains else "scored"


def _is_scored(source: TaskFile, items: Items) -> bool:
    return source.scored_split is not None and source.scored_split == source.config.get(
        f"{items}_split"
    )


def _read(
    source: TaskFile, folder: Path, items: Items, download: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items to split and the worked examples, which are no item of any split."""
    from evomerge.evaluators.data import open_data, quiet, without_network

    where = str(source.path)
    if "class" in source.config:
        raise ConfigError(Problem("E142", f"task {source.name} is a Python class", file=where))
    try:
        with contextlib.ExitStack() as context:
            if not download:
                context.enter_context(without_network())
                if (source.hub_data or source.urls()) and not source.changes_items:
                    # Before lm-eval, with its torch, is loaded.
                    open_data(source)
            from evomerge.evaluators.loading import load_task

            task = load_task(source, folder)
            context.enter_context(quiet())
            given = {
                "scored": lambda: task.eval_docs,
                "train": task.training_docs,
                "validation": task.validation_docs,
                "test": task.test_docs,
            }[items]()
            docs = [dict(doc) for doc in given or ()]
            # Samples that stand in the task file stay there.
            kept = (source.config.get("fewshot_config") or {}).get("samples") is not None
            shown = [] if kept else [dict(doc) for doc in task.fewshot_docs() or ()]
    except Exception as error:
        # Whatever lm-eval, datasets or the task's own code raises is a fault of the task.
        code, wrong, found, todo = cannot_load(source, error)
        if code == "E144":
            todo = "see what was found" if download else "`--download` fetches it"
        raise ConfigError(Problem(code, wrong, found, todo, where)) from error
    if not docs:
        raise ConfigError(Problem("E128", f"task {source.name} has no {items} items", file=where))
    ids = {item_id(doc) for doc in docs}
    examples = [doc for doc in shown if item_id(doc) not in ids]
    if not kept and not examples and source.config.get("num_fewshot"):
        return _reserve(docs)
    return docs, examples[:EXAMPLES]


def _reserve(docs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Items and worked examples of a task that has one pool for both: some items become examples."""
    shown: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for doc in docs:
        drawn = split_of(f"examples {item_id(doc)}", (RESERVED, 1, 99 - RESERVED)) == "search"
        (shown if drawn else rest).append(doc)
    return rest, shown[:EXAMPLES]


def _write(
    out: Path,
    name: str,
    source: TaskFile,
    chosen: Mapping[Split, Sequence[Mapping[str, Any]]],
    examples: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> None:
    tasks = out / "tasks"
    (tasks / "data").mkdir(parents=True)
    modules = _copy_code(source, tasks)
    if examples:
        _write_items(tasks / "data" / f"{name}_examples.jsonl", examples, source)
    for split, docs in chosen.items():
        label = f"{name}_{split}"
        _write_items(tasks / "data" / f"{label}.jsonl", docs, source)
        data = {"test": f"data/{label}.jsonl"}
        config: dict[str, Any] = {"task": label, "dataset_path": "json"}
        config["dataset_kwargs"] = {"data_files": data}
        config["test_split"] = "test"
        if examples:
            data["examples"] = f"data/{name}_examples.jsonl"
            config["fewshot_split"] = "examples"
        config |= {key: value for key, value in source.config.items() if key not in DATA_FIELDS}
        if isinstance(shots := config.get("fewshot_config"), Mapping):
            dropped = ("split", "process_docs") if examples else ("process_docs",)
            config["fewshot_config"] = {k: v for k, v in shots.items() if k not in dropped}
        metadata = dict(source.config.get("metadata") or {})
        config["metadata"] = metadata | {SPLIT_RECORD: {**record, "split": split}}
        _dump(config, tasks / f"{label}.yaml", modules)
    declared = {
        "schema": 1,
        "kind": "lm_eval",
        "name": name,
        "include_path": "tasks",
        "tasks": {split: f"{name}_{split}" for split in SPLITS},
        "metrics": list(_metrics(source)),
    }
    _dump(declared, out / f"{name}.yaml", {})


def _metrics(source: TaskFile) -> Iterator[str]:
    """The task's own metrics, each with its filter where there are several."""
    for metric in source.metrics:
        if metric in GENERATION_METRICS:
            continue
        if len(source.filters) == 1:
            yield metric
        else:
            yield from (f"{metric},{each}" for each in source.filters)


def _copy_code(source: TaskFile, tasks: Path) -> dict[Path, str]:
    """Copy the Python beside the task's files; folder to what its modules are called from `tasks`."""
    folders = {f.folder for _, f in functions_of(source.config) if f.module.is_file()}
    names: dict[Path, str] = {}
    for number, folder in enumerate(sorted(folders)):
        names[folder] = f"code{number}"
        for path in sorted(folder.glob("*.py")):
            target = tasks / names[folder] / path.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    return names


def _write_items(path: Path, docs: Sequence[Mapping[str, Any]], source: TaskFile) -> None:
    try:
        # As in `item_id`: a date counts, and is shown in a prompt, by its text.
        lines = [json.dumps(doc, ensure_ascii=False, default=_text) for doc in docs]
    except (TypeError, ValueError) as error:
        wrong = f"the items of task {source.name} cannot be written as JSON"
        raise ConfigError(Problem("E142", wrong, str(error), file=str(source.path))) from error
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    if type(value).__module__.partition(".")[0] in ("datetime", "decimal", "uuid"):
        return str(value)
    raise TypeError(f"a value is of type {type(value).__name__}")


def _dump(data: Mapping[str, Any], path: Path, modules: Mapping[Path, str]) -> None:
    class Representer(SafeRepresenter):
        pass

    def function(representer: SafeRepresenter, value: TaskFunction) -> ScalarNode:
        prefix = f"{modules[value.folder]}." if value.module.is_file() else ""
        return representer.represent_scalar("!function", prefix + value.name)

    Representer.add_representer(TaskFunction, function)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(dict(data), file)


def _check_written(
    out: Path,
    name: str,
    chosen: Mapping[Split, Sequence[Mapping[str, Any]]],
    source: TaskFile,
    allow_code: bool,
) -> None:
    """See that lm-eval reads back exactly the items that were meant."""
    opened = open_evaluator(load_evaluator(out / f"{name}.yaml"), allow_code=allow_code)
    for split, docs in chosen.items():
        if sorted(opened.item_ids(split)) != sorted(item_id(doc) for doc in docs):
            wrong = f"the items of task {source.name} change when they are read back from JSON lines"
            raise ConfigError(Problem("E142", wrong, file=str(source.path)))
