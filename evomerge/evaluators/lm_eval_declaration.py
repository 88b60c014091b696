"""Declarations of lm-eval tasks: the YAML that names an evaluator's tasks, metrics and blocks.

Read, checked and digested without torch or lm-eval, so that drivers and `check` can do it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.declaration import Declaration, OpenedItems, Section
from evomerge.evaluators.items import Item, item_id
from evomerge.evaluators.task_files import (
    GENERATION_METRICS,
    TaskFile,
    cannot_load,
    find_installed,
    find_tasks,
    installed_tasks,
    matching_files,
)
from evomerge.files.paths import without_detours
from evomerge.files.yaml_file import load_yaml, validate
from evomerge.objectives.scores import SPLITS, Split
from evomerge.recipe.recipe import canonical_json

BYTES_PER_TOKEN = 8
"""Of a JSON-lines file of short items, quotes and field names counted in."""

CHARACTERS_PER_TOKEN = 4
"""Of an item's values."""

Scorer = Literal["auto", "packed", "lm_eval"]


class SplitTasks(Section):
    """The lm-eval task of each split.

    Attributes:
        search: whose items the search is told of.
        selection: whose items decide the front.
        test: whose items are scored at an export.
    """

    search: str
    selection: str
    test: str

    def of(self, split: Split) -> str:
        """The task of `split`."""
        return {"search": self.search, "selection": self.selection, "test": self.test}[split]


class LmEvalDeclaration(Declaration):
    """Accuracy and other metrics of lm-eval tasks, one task for each split.

    Attributes:
        kind: `lm_eval`.
        include_path: folder of task files; relative to the declaration's file, absolute once loaded.
            Without it, the tasks are those installed with lm-eval.
        tasks: one lm-eval task per split.
        metrics: lm-eval metric names; `metric,filter` where a task has several filters.
        block_size: items per block; a batch never crosses a block.
        num_fewshot: worked examples before each item; as the task file says where absent.
        apply_chat_template: wrap prompts in the tokenizer's chat template.
        system_instruction: what the system says before each prompt.
        fewshot_as_multiturn: in a chat, each worked example is a turn of its own.
        gen_kwargs: settings of generation that replace those of the task files (`max_gen_toks`,
            `temperature`), as lm-eval's option of that name.
        scorer: `lm_eval` scores through lm-eval's own model class, `packed` by our scorer, `auto` by
            ours where it agrees with lm-eval on the model at hand and by lm-eval's elsewhere.
        smooth: whether smooth values are recorded beside the metrics (see `margins`), for a search to steer
            by. They cost nothing but where a task writes answers: there reference answers are scored too, one
            more forward pass beside the many of writing.
        learn_targets: of tasks that write answers, whether the target of each item is a right answer, which
            an optimizer with gradients may make likely, and whose likelihood is a smooth value. Where
            absent, it is if lm-eval compares answers with targets; where Python of its own judges them,
            targets may be tests. Changes no score.
    """

    by_block: ClassVar[bool] = True
    has_losses: ClassVar[bool] = True

    kind: Literal["lm_eval"]
    include_path: str | None = None
    tasks: SplitTasks
    metrics: Annotated[list[str], Field(min_length=1)]
    block_size: PositiveInt = 50
    num_fewshot: NonNegativeInt | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    gen_kwargs: Annotated[dict[str, bool | int | float | str | list[str]], Field(default_factory=dict)]
    scorer: Scorer = "auto"
    smooth: bool = True
    learn_targets: bool | None = None

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("E122", "a metric is listed twice")
        return value

    @property
    def folder(self) -> Path:
        """The folder of the task files."""
        return installed_tasks() if self.include_path is None else Path(self.include_path)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics as objectives name them, for example `math.acc`."""
        return tuple(f"{self.name}.{metric}" for metric in self.metrics)

    def directions(self) -> dict[str, bool | None]:
        """Full metric name to whether higher is better, as the search task says.

        None where it does not, and for every metric if a task is missing.
        """
        try:
            known = task_files(self)["search"].metrics
        except ConfigError:
            return dict.fromkeys(self.metric_names)
        return {
            full: known.get(metric.partition(",")[0])
            for full, metric in zip(self.metric_names, self.metrics, strict=True)
        }

    def learnable(self) -> frozenset[str]:
        """As the task of the search and `learn_targets` have it; all if the task is missing."""
        named = zip(self.metric_names, (m.partition(",")[0] for m in self.metrics), strict=True)
        try:
            task = task_files(self)["search"]
        except ConfigError:
            return frozenset(self.metric_names)
        return frozenset(full for full, name in named if task.may_learn(name, self.learn_targets))

    def problems(self, *, allow_code: bool = False) -> list[Problem]:
        """Every fault that shows without loading lm-eval: tasks, metrics, data files, splits, code.

        Problems: E101 a folder or data file is missing, E122 few-shot settings that lm-eval would ignore,
        E123 no such task, E124 no such metric or filter, E126 a task that runs code (unless `allow_code`),
        E128 two splits that share a task or an item, E141 a scorer that cannot do the task, E142
        `learn_targets` of a task that does not write.
        """
        if not self.folder.is_dir():
            wrong = "no such folder of task files"
            return [self.fault("include_path", "E101", wrong, f"found {self.include_path!r}")]
        tasks, unreadable = _find(self)
        problems: list[Problem] = []
        chosen: dict[Split, TaskFile] = {}
        for split in SPLITS:
            name = self.tasks.of(split)
            if name in tasks:
                chosen[split] = tasks[name]
                continue
            near = difflib.get_close_matches(name, tasks, n=1)
            known = ", ".join(sorted(tasks)) or "none"
            found = f"found {name!r}; the tasks of {self.folder} are: {known}"
            found += "".join(f"; {path.name} cannot be read: {why}" for path, why in unreadable.items())
            todo = f"did you mean `{near[0]}`?" if near else ""
            problems.append(self.fault(f"tasks.{split}", "E123", "no such task", found, todo))
        for split, task in chosen.items():
            problems += _task_problems(self, split, task, allow_code)
        return [*problems, *_overlaps(self, chosen)]

    def inputs(self) -> list[tuple[str, Path]]:
        """The folder of task files, where it is its own, and what its tasks include and read."""
        own = [] if self.include_path is None else [("include_path", Path(self.include_path))]
        return own + [
            (f"tasks.{split}", path)
            for split, task in task_files(self).items()
            if self.include_path is not None
            for path in (*task.sources, *task.data_files(), *task.local_data_set)
        ]

    def local_ids(self) -> dict[Split, list[str]]:
        """Content hash of each item by split, for tasks whose items lie in local JSON lines."""
        found = {split: task.local_item_ids() for split, task in task_files(self).items()}
        return {split: ids for split, ids in found.items() if ids is not None}

    def open_items(self, *, allow_code: bool = False) -> OpenedItems:
        """The items of every split as lm-eval gives them, read on this machine without asking a network.

        Torch and lm-eval are loaded only for tasks whose own Python says what the items are; that runs, as
        `problems` allowed.

        Raises:
            ConfigError: E144 a data set is not on this machine, E123 it cannot be loaded, E128 a split has no
                items or shares some with another.
        """
        ids: dict[Split, list[str]] = {}
        problems: dict[tuple[str, str], Problem] = {}
        tokens = 0
        for split, task in task_files(self).items():
            try:
                local = None if task.changes_items else task.local_item_ids()
                items = [] if local is not None else _items(self, task)
            except Exception as error:
                # Whatever lm-eval, datasets or the task's own code raises is a fault of the task.
                code, wrong, found, todo = cannot_load(task, error)
                fault = self.fault(f"tasks.{split}", code, wrong, found, todo)
                # One data set that is missing is missing for all three.
                problems.setdefault((code, todo or split), fault)
                continue
            ids[split] = local if local is not None else [item_id(item) for item in items]
            if not ids[split]:
                wrong = f"task {task.name} has no items"
                problems["E128", split] = self.fault(f"tasks.{split}", "E128", wrong)
            if split == "search":
                characters = sum(len(str(value)) for item in items for value in item.values())
                tokens = self.size()[1] if local is not None else characters // CHARACTERS_PER_TOKEN
        if faults := [*problems.values(), *shared_items(self, ids)]:
            raise ConfigError(faults)
        return OpenedItems(ids, tokens)

    def digest(self) -> str:
        """SHA-256 (hex) over the declaration and the bytes of its task and data files.

        Where files lie does not matter; any changed item, prompt or setting changes the digest. Where a
        task runs code, the Python files of its folder count too. Items of a hub data set count by its name.

        Raises:
            ConfigError: E123, if a task is missing.
        """
        # What is learned changes no score; what an evaluator can teach is recorded beside its digest.
        settings = self.model_dump(by_alias=True, exclude={"include_path", "learn_targets"})
        if self.smooth:
            # Campaigns from before there was this field have digests without it.
            del settings["smooth"]
        hasher = hashlib.sha256(canonical_json(settings).encode())
        for split, task in task_files(self).items():
            code = sorted(task.path.parent.glob("**/*.py")) if task.code else []
            for kind, files in (("yaml", task.sources), ("data", task.data_files()), ("code", code)):
                for path in files:
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                    hasher.update(f"\n{split} {kind} {content}".encode())
        return hasher.hexdigest()

    def size(self) -> tuple[int, int]:
        """Search items (0 where they are not local), and roughly their tokens."""
        task = task_files(self)["search"]
        tokens = sum(path.stat().st_size for path in task.data_files()) // BYTES_PER_TOKEN
        return len(task.local_item_ids() or ()), tokens


def load_evaluator(path: Path) -> LmEvalDeclaration:
    """Read a declaration; `include_path` comes back absolute.

    Raises:
        ConfigError: with every fault of the file itself; `check_evaluator` finds those of the tasks.
    """
    data, positions = load_yaml(path)
    declaration = validate(LmEvalDeclaration, data, positions, str(path))
    loaded = declaration.model_copy()
    if declaration.include_path is not None:
        folder = (path.parent / declaration.include_path).resolve()
        loaded = declaration.model_copy(update={"include_path": str(folder)})
    loaded._file = str(path)
    loaded._positions = dict(positions)
    return loaded


def _find(declaration: LmEvalDeclaration) -> tuple[dict[str, TaskFile], dict[Path, str]]:
    if declaration.include_path is None:
        return find_installed([declaration.tasks.of(split) for split in SPLITS])
    return find_tasks(declaration.folder)


def _task_problems(
    declaration: LmEvalDeclaration, split: Split, task: TaskFile, allow_code: bool
) -> Iterator[Problem]:
    field = f"tasks.{split}"
    fault = declaration.fault
    for metric in declaration.metrics:
        name, comma, chosen = metric.partition(",")
        has = ", ".join(task.metrics)
        if name not in task.metrics and task.names_all_metrics:
            near = difflib.get_close_matches(name, task.metrics, n=1)
            todo = f"did you mean `{near[0]}`?" if near else ""
            wrong = f"task {task.name} has no metric `{name}`"
            yield fault("metrics", "E124", wrong, f"it has: {has}", todo)
        if comma and chosen not in task.filters:
            wrong = f"task {task.name} has no filter `{chosen}`"
            yield fault("metrics", "E124", wrong, f"it has: {', '.join(task.filters)}")
        elif not comma and len(task.filters) > 1 and name not in GENERATION_METRICS:
            wrong = f"task {task.name} has several filters, `{name}` could be of any"
            todo = "write one of " + ", ".join(f"`{name},{f}`" for f in task.filters)
            yield fault("metrics", "E124", wrong, "", todo)
    for pattern in task.data_patterns():
        if not matching_files(pattern):
            wrong = f"data file of task {task.name} is missing"
            todo = "data_files are relative to the task file"
            yield fault(field, "E101", wrong, f"no file {without_detours(Path(pattern))}", todo)
    if task.scored_split is None:
        wrong = f"task {task.name} names no data to score"
        yield fault(field, "E101", wrong, "", f"add `test_split` to {task.path.name}")
    if task.code and not allow_code:
        wrong = f"task {task.name} runs code"
        todo = "read that code; then allow it with --allow-task-code"
        yield fault(field, "E126", wrong, f"{task.path.name} has {', '.join(task.code)}", todo)
    if task.config.get("num_fewshot") == 0 and declaration.num_fewshot:
        wrong = f"task {task.name} fixes num_fewshot at 0, and lm-eval keeps to that"
        yield fault("num_fewshot", "E122", wrong, f"found {declaration.num_fewshot}")
    if declaration.learn_targets is not None and task.output_type != "generate_until":
        wrong = (
            f"`learn_targets` is for answers that are written, task {task.name} is {task.output_type}"
        )
        yield fault("learn_targets", "E142", wrong, "", "leave it out")
    if declaration.scorer == "packed" and task.output_type not in ("multiple_choice", "loglikelihood"):
        wrong = f"the packed scorer takes log-likelihood tasks, {task.name} is {task.output_type}"
        yield fault("scorer", "E141", wrong, "", "write `scorer: auto`")


def _overlaps(declaration: LmEvalDeclaration, chosen: dict[Split, TaskFile]) -> Iterator[Problem]:
    ids: dict[Split, set[str]] = {}
    for split, task in chosen.items():
        try:
            found_ids = task.local_item_ids()
            ids[split] = set(found_ids or ())
            # A file that is missing is a fault of its own.
            if found_ids == [] and task.data_files(task.scored_split):
                wrong = f"task {task.name} has no items"
                yield declaration.fault(f"tasks.{split}", "E128", wrong, "", "give more items")
        except (ValueError, OSError) as error:
            wrong = f"data of task {task.name} cannot be read"
            yield declaration.fault(f"tasks.{split}", "E102", wrong, str(error))
    for split, task in chosen.items():
        for other in SPLITS[: SPLITS.index(split)]:
            if other in chosen and chosen[other].name == task.name:
                wrong = f"{other} and {split} are one task; a held-out split must hold other items"
                yield declaration.fault(f"tasks.{split}", "E128", wrong, f"found {task.name!r} twice")
            elif shared := len(ids.get(other, set()) & ids.get(split, set())):
                wrong = f"{other} and {split} share items"
                found = f"{shared} of {len(ids[split])} items of {task.name} are in both"
                yield declaration.fault(f"tasks.{split}", "E128", wrong, found)


def _items(declaration: LmEvalDeclaration, task: TaskFile) -> list[Item]:
    from evomerge.evaluators.data import open_data, without_network

    if not task.changes_items:
        return [dict(row) for row in open_data(task)[task.scored_split]]
    from evomerge.evaluators.loading import load_task

    with without_network():
        return [dict(doc) for doc in load_task(task, declaration.folder).eval_docs]


def shared_items(
    declaration: LmEvalDeclaration, ids: Mapping[Split, Collection[str]]
) -> Iterator[Problem]:
    """E128 for each pair of splits that have items in common."""
    for split in ids:
        for other in SPLITS[: SPLITS.index(split)]:
            if shared := len({*ids[split]} & {*ids.get(other, ())}):
                wrong, found = f"{other} and {split} share items", f"{shared} items are in both"
                yield declaration.fault(f"tasks.{split}", "E128", wrong, found)


def benchmark_problem(declaration: LmEvalDeclaration) -> Problem | None:
    """E127, if the search items are those on which a public benchmark is scored.

    A model chosen on them has no honest score on that benchmark any more.
    """
    task = _find(declaration)[0].get(declaration.tasks.search)
    if task is None or task.benchmark is None:
        return None
    wrong = f"task {task.name} searches on the items that {task.benchmark} is scored on"
    todo = "search on its training items (evomerge split --items train), or give --allow-benchmark-test"
    return declaration.fault("tasks.search", "E127", wrong, "", todo)


def task_files(declaration: LmEvalDeclaration) -> dict[Split, TaskFile]:
    """The task file of each split.

    Raises:
        ConfigError: E123, if one is missing.
    """
    tasks, _ = _find(declaration)
    missing = [split for split in SPLITS if declaration.tasks.of(split) not in tasks]
    if missing:
        raise ConfigError(
            declaration.fault(
                f"tasks.{split}", "E123", "no such task", f"found {declaration.tasks.of(split)!r}"
            )
            for split in missing
        )
    return {split: tasks[declaration.tasks.of(split)] for split in SPLITS}
