"""lm-eval task files as data: found by name, read without importing lm-eval or running their code.

lm-eval reads task YAML with PyYAML (YAML 1.1) and imports the Python that a `!function` tag names, so
a task file can run code. Here the tag is only noted.
"""

from __future__ import annotations

import copy
import functools
import glob
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import Node

from evomerge.evaluators.items import item_id, json_lines

MAX_BYTES = 1_000_000
SPLIT_RECORD = "evomerge"
"""Field of a task's metadata in which a split made by evomerge says what it was made of."""

LOCAL_BUILDERS = frozenset({"json", "csv", "parquet", "arrow", "text", "pandas", "xml"})
"""Values of `dataset_path` that name a file format."""

IGNORED_FOLDERS = frozenset({"__pycache__", ".ipynb_checkpoints"})
DEFAULT_METRICS: Mapping[str, tuple[str, ...]] = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
"""What lm-eval computes for each output type where a task file lists no metrics."""

GENERATION_METRICS: Mapping[str, bool | None] = {"looped": False, "tokens": None}
"""What is always measured of generated answers: the share that loops, and their mean length."""


@dataclass(frozen=True)
class TaskFile:
    """One task of a folder.

    Attributes:
        name: the task's name.
        path: its YAML file.
        config: the file's fields, those of the files it includes merged in.
        code: dotted fields through which the file would run Python, each with what it names.
        sources: the YAML files it was read from, its own first.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    code: tuple[str, ...]
    sources: tuple[Path, ...]

    @property
    def output_type(self) -> str:
        """lm-eval's output type; its default is `generate_until`."""
        return str(self.config.get("output_type", "generate_until"))

    @property
    def metrics(self) -> dict[str, bool | None]:
        """Metric to whether higher is better (None where the file does not say)."""
        always = GENERATION_METRICS if self.output_type == "generate_until" else {}
        listed = self.config.get("metric_list")
        if not isinstance(listed, list):
            return {**dict.fromkeys(DEFAULT_METRICS.get(self.output_type, ())), **always}
        own = {
            metric_name(entry["metric"]): entry.get("higher_is_better")
            for entry in listed
            if isinstance(entry, dict) and "metric" in entry
        }
        return {**own, **always}

    @property
    def names_all_metrics(self) -> bool:
        """Whether `metrics` is complete; a function may give its results names of its own."""
        listed = self.config.get("metric_list")
        entries = listed if isinstance(listed, list) else []
        return not any(
            isinstance(entry, dict) and isinstance(entry.get("metric"), TaskFunction)
            for entry in entries
        )

    def may_learn(self, metric: str, learn_targets: bool | None) -> bool:
        """Whether right answers make a metric (without a filter) better, as far as the file tells.

        They do where lm-eval itself compares answers with targets (see `judging`), where the declaration says
        so, and with any metric of whole texts; they do not make answers longer or shorter.
        """
        kind = self.output_type
        if metric in GENERATION_METRICS and kind == "generate_until":
            return False
        if kind == "generate_until" and learn_targets is not None:
            return learn_targets
        if kind == "loglikelihood_rolling" or "class" in self.config:
            return True
        listed = self.config.get("metric_list")
        entries = listed if isinstance(listed, list) else []
        own = [each.get("metric") for each in entries if isinstance(each, dict)]
        plain = {each for each in own if isinstance(each, str)} if entries else {metric}
        return metric in plain and not self.config.get("process_results")

    @property
    def filters(self) -> tuple[str, ...]:
        """Names of the answer filters; `none` where the file lists none."""
        listed = self.config.get("filter_list")
        if not isinstance(listed, list):
            return ("none",)
        return tuple(str(entry.get("name")) for entry in listed if isinstance(entry, dict))

    @property
    def benchmark(self) -> str | None:
        """The public benchmark whose scored items these are; None of training items and local data.

        A data set counts as public if it is no local file: it is named by its place on the hub.
        """
        made = (self.config.get("metadata") or {}).get(SPLIT_RECORD)
        if isinstance(made, Mapping):
            return str(made["benchmark"]) if made.get("benchmark") else None
        trains = (self.scored_split or "").startswith("train")
        return None if trains else self.hub_data

    @property
    def hub_data(self) -> str | None:
        """The data set's place on the hub; None of local files."""
        local = self.data_patterns() or self.config.get("dataset_path") in LOCAL_BUILDERS
        return None if local else str(self.config.get("dataset_path"))

    @property
    def local_data_set(self) -> list[Path]:
        """The folder of a data set that is named by its place on this machine."""
        place = Path(str(self.config.get("dataset_path")))
        return [place] if place.is_absolute() and place.exists() else []

    @property
    def changes_items(self) -> bool:
        """Whether Python of the task's own says what its items are."""
        return any(self.config.get(key) for key in ("process_docs", "custom_dataset", "class"))

    @property
    def scored_split(self) -> str | None:
        """The data set's split whose items are scored."""
        split = self.config.get("test_split") or self.config.get("validation_split")
        return None if split is None else str(split)

    @property
    def dataset_kwargs(self) -> dict[str, Any]:
        """`dataset_kwargs` with local `data_files` absolute: they are relative to the task file."""
        kwargs = dict(self.config.get("dataset_kwargs") or {})
        if "data_files" in kwargs:
            kwargs["data_files"] = self._absolute(kwargs["data_files"])
        return kwargs

    def _absolute(self, entry: Any) -> Any:
        if isinstance(entry, Mapping):
            return {split: self._absolute(value) for split, value in entry.items()}
        if isinstance(entry, list | tuple):
            return [self._absolute(value) for value in entry]
        text = str(entry)
        return text if "://" in text else str(self.path.parent / text)

    def data_patterns(self, split: str | None = None) -> list[str]:
        """Local data files or glob patterns, of one split or of all."""
        files = self.dataset_kwargs.get("data_files", {})
        by_split = files if isinstance(files, Mapping) else {"train": files}
        chosen = by_split.values() if split is None else [by_split.get(split, [])]
        return [entry for entry in _flat(chosen) if "://" not in entry]

    def urls(self) -> list[str]:
        """Data files that lie elsewhere."""
        files = self.dataset_kwargs.get("data_files", {})
        chosen = files.values() if isinstance(files, Mapping) else [files]
        return [entry for entry in _flat(chosen) if "://" in entry]

    def data_files(self, split: str | None = None) -> list[Path]:
        """The local data files that exist, in a fixed order."""
        return sorted({path for p in self.data_patterns(split) for path in matching_files(p)})

    def local_item_ids(self) -> list[str] | None:
        """Ids of the scored items where they lie in local JSON lines; None elsewhere.

        Raises:
            ValueError: if a line is not a JSON object.
        """
        if self.config.get("dataset_path") != "json" or "field" in self.dataset_kwargs:
            return None
        files = self.data_files(self.scored_split)
        if not files or any(path.suffix not in (".jsonl", ".json") for path in files):
            return None
        if any(path.suffix == ".json" and _is_array(path) for path in files):
            return None
        return [item_id(doc) for path in files for doc in json_lines(path)]


def _flat(values: Iterable[Any]) -> list[str]:
    return [entry for value in values for entry in (value if isinstance(value, list) else [value])]


def cannot_load(task: TaskFile, error: Exception) -> tuple[str, str, str, str]:
    """Code, what is wrong, what was found and what to do, of a task whose items cannot be read offline."""
    found = f"{type(error).__name__}: {error}"
    name = task.hub_data or next(iter(task.urls()), None)
    if name is None or task.changes_items:
        return "E123", f"lm-eval cannot load task {task.name}", found, ""
    config = task.config.get("dataset_name")
    wrong = f"the data set of task {task.name} is not on this machine: {name}"
    if config is not None:
        wrong += f" ({config})"
    todo = f"copy it here and name its place in {task.path.name}"
    if task.hub_data is not None:
        words = ", ".join(repr(str(word)) for word in (name, config) if word is not None)
        todo = f'fetch it once: python -c "import datasets; datasets.load_dataset({words})"'
    return "E144", wrong, found, todo


def _is_array(path: Path) -> bool:
    """Whether a JSON file is one array of items, which lm-eval reads as well as lines."""
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def metric_name(metric: Any) -> str:
    """How lm-eval calls a metric: by its name, or by that of the function that computes it."""
    return metric.name.rpartition(".")[2] if isinstance(metric, TaskFunction) else str(metric)


def matching_files(pattern: str) -> list[Path]:
    """The files a path or glob pattern names."""
    return [path for name in glob.glob(pattern, recursive=True) if (path := Path(name)).is_file()]


def find_tasks(folder: Path) -> tuple[dict[str, TaskFile], dict[Path, str]]:
    """Every task below `folder` by name, and the YAML files that could not be read, with the reason.

    As in lm-eval, of two files with one name the first in path order counts.
    """
    tasks: dict[str, TaskFile] = {}
    unreadable: dict[Path, str] = {}
    for path in sorted(folder.glob("**/*.yaml"), key=lambda path: path.as_posix()):
        if IGNORED_FOLDERS & set(path.parts):
            continue
        _take(path, tasks, unreadable)
    return tasks, unreadable


def _take(path: Path, tasks: dict[str, TaskFile], unreadable: dict[Path, str]) -> None:
    try:
        config, sources = _read(path, ())
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        unreadable[path] = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        return
    name = config.get("task")
    if isinstance(name, str) and "group" not in config:
        tasks.setdefault(name, TaskFile(name, path, config, tuple(_code(config)), sources))


def installed_tasks() -> Path:
    """The folder of the tasks that come with lm-eval, found without importing it.

    Raises:
        FileNotFoundError: if lm-eval is not installed.
    """
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("lm-eval is not installed")
    return Path(next(iter(found.submodule_search_locations))) / "tasks"


def find_installed(names: Sequence[str]) -> tuple[dict[str, TaskFile], dict[Path, str]]:
    """Tasks that come with lm-eval, by name; only files in which a name stands are parsed."""
    tasks: dict[str, TaskFile] = {}
    unreadable: dict[Path, str] = {}
    for path in _installed_files(tuple(sorted(names))):
        _take(path, tasks, unreadable)
    return tasks, unreadable


@functools.cache
def _installed_files(names: tuple[str, ...]) -> list[Path]:
    """The files in which one of the names stands; there are thousands to look through."""
    wanted = re.compile(
        rb"^task:\s*[\"']?(?:"
        + b"|".join(re.escape(n).encode() for n in names)
        + rb")[\"']?\s*(?:#|$)",
        re.MULTILINE,
    )
    files = installed_tasks().glob("**/*.yaml")
    chosen = (path for path in files if wanted.search(path.read_bytes()))
    return sorted(chosen, key=lambda path: path.as_posix())


@dataclass(frozen=True)
class TaskFunction:
    """What a `!function` tag names, and the folder of the file it stands in; lm-eval would import it."""

    name: str
    folder: Path

    @property
    def module(self) -> Path:
        """The Python file lm-eval looks for first."""
        return self.folder / (self.name.rpartition(".")[0].replace(".", "/") + ".py")


def _constructor(folder: Path) -> type[SafeConstructor]:
    """Plain YAML data, with `!function` kept as a name."""

    class Constructor(SafeConstructor):
        pass

    def function(constructor: SafeConstructor, node: Node) -> TaskFunction:
        return TaskFunction(str(constructor.construct_scalar(node)), folder)

    Constructor.add_constructor("!function", function)
    return Constructor


@functools.lru_cache(maxsize=1024)
def _parsed(text: str, folder: Path) -> Any:
    """What a file says. One campaign looks through the same files several times, and parsing is slow."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = "1.1"
    yaml.Constructor = _constructor(folder)
    return yaml.load(text)


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    if path in seen:
        raise ValueError(f"{path.name} includes itself")
    text = path.read_text(encoding="utf-8")
    if len(text) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    data = copy.deepcopy(_parsed(text, path.parent))
    if not isinstance(data, dict):
        raise ValueError("the document is not a mapping")
    included = data.pop("include", [])
    merged: dict[str, Any] = {}
    sources: tuple[Path, ...] = (path,)
    for name in included if isinstance(included, list) else [included]:
        inner, more = _read((path.parent / str(name)).resolve(), (*seen, path))
        inner.pop("task_list", None)
        merged.update(inner)
        sources += more
    return merged | data, sources


def _code(config: Mapping[str, Any]) -> Iterator[str]:
    """Fields that make lm-eval run Python of the task's or the model's making."""
    for key in ("unsafe_code", "class"):
        if config.get(key):
            yield f"{key}: {_shown(config[key])}"
    if (config.get("dataset_kwargs") or {}).get("trust_remote_code"):
        yield "dataset_kwargs.trust_remote_code: true"
    for place, function in functions_of(config):
        yield f"{place}: !function {function.name}"


def _shown(value: Any) -> str:
    return f"!function {value.name}" if isinstance(value, TaskFunction) else str(value).lower()


def functions_of(value: Any, place: str = "") -> Iterator[tuple[str, TaskFunction]]:
    """Every function a configuration names, with its dotted place."""
    if isinstance(value, TaskFunction):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from functions_of(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from functions_of(inner, f"{place}[{index}]")
