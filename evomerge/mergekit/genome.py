"""A mergekit-evolve file to a campaign folder: campaign, search space, and evaluators to be completed."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from ruamel.yaml import YAML

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.errors import ConfigError, Problem, UsageError
from evomerge.files.yaml_file import Positions, load_yaml, position, validate
from evomerge.mergekit.document import Document, ModelRef
from evomerge.mergekit.form import read_tokenizer
from evomerge.mergekit.methods import SPOKEN
from evomerge.mergekit.models import Models
from evomerge.objectives.scores import SPLITS
from evomerge.recipe.recipe import UNION


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GenomeSection(_Section):
    """What is merged, by mergekit-evolve's field names and defaults.

    `tokenizer` is a section of mergekit's own files, which mergekit-evolve passes over.
    """

    models: list[str] = Field(min_length=1)
    merge_method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
    base_model: str | None = None
    tokenizer_source: str | None = None
    tokenizer: dict[str, Any] | None = None
    layer_granularity: int = Field(default=0, ge=0)
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


class TaskSection(_Section):
    """An lm-eval task and what its metric counts."""

    name: str
    weight: FiniteFloat = 1.0
    metric: str = "acc,none"


class GenomeFile(_Section):
    """The whole file."""

    genome: GenomeSection
    tasks: list[TaskSection] = Field(min_length=1)
    limit: int | float | None = None
    num_fewshot: int | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True


@dataclass(frozen=True)
class Imported:
    """What was written, by path inside the folder, and what could not be carried over."""

    files: tuple[str, ...]
    left_out: tuple[str, ...]


def import_genome(file: Path, out: Path) -> Imported:
    """Write a campaign folder from a mergekit-evolve file.

    Raises:
        ConfigError: faults of the file, E137 what a campaign cannot be made of, with its line.
        CheckpointError: a model that is not on this machine.
        UsageError: E601, the folder exists and is not empty.
    """
    data, positions = load_yaml(file)
    if "genome" not in data and "merge_method" in data:
        wrong = "a mergekit YAML states one merge: there is nothing to search"
        todo = f"evomerge merge {file} OUT"
        raise ConfigError(Problem("E138", wrong, "", todo, str(file), field="merge_method"))
    found = validate(GenomeFile, data, positions, str(file))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(Problem("E601", "the folder exists and is not empty", file=str(out)))
    maker = _Maker(file, positions, found)
    documents = maker.documents()
    for name, content in documents.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dumped(content, maker.heads.get(name, "")), encoding="utf-8")
    return Imported(tuple(documents), tuple(maker.left_out))


class _Maker:
    """Makes the documents of one campaign."""

    def __init__(self, file: Path, positions: Positions, found: GenomeFile) -> None:
        self.file = file
        self.positions = positions
        self.found = found
        self.left_out: list[str] = []
        self.heads: dict[str, str] = {}
        genome = found.genome
        if genome.base_model is None:
            wrong = "a campaign measures its experts from a base"
            raise self.error("base_model", wrong, "add `base_model`, the model they were tuned from")
        document = Document(
            str(file), positions, SPOKEN[genome.merge_method], None, (), True, {}, None, None, None, {}, 0,
            "", (),
        )  # fmt: skip
        self.models = Models(document)
        base = self.models.name(_ref(genome.base_model, ("genome", "base_model")), "base")
        names = [
            self.models.name(_ref(text, ("genome", "models", index)))
            for index, text in enumerate(genome.models)
        ]
        self.experts = [name for name in dict.fromkeys(names) if name != base]
        if not self.experts:
            raise self.error("models", "a campaign needs a model besides the base", "")
        folder = self.models.folders[base]
        self.layers = folder.base.layers if isinstance(folder, AdapterFolder) else folder.layers

    def error(self, field: str, wrong: str, todo: str) -> ConfigError:
        """E137 at a field of the genome."""
        line, column = position(self.positions, ("genome", field))
        return ConfigError(
            Problem("E137", wrong, "", todo, str(self.file), line, column, f"genome.{field}")
        )

    def documents(self) -> dict[str, Any]:
        """File name to content."""
        evaluators = {f"evaluators/{_plain(t.name)}.yaml": self.evaluator(t) for t in self.found.tasks}
        space = self.space()
        tokenizer = self.tokenizer()
        self.note_rest()
        left = "".join(f"# - {text}\n" for text in self.left_out)
        self.heads["campaign.yaml"] = (
            f"# From the mergekit-evolve file {self.file.name}.\n"
            + (f"# Not carried over:\n{left}" if left else "")
            + "# Now split the tasks, in this folder:\n"
            + "".join(f"#   {_split(task)}\n" for task in self.found.tasks)
            + "# then: evomerge check campaign.yaml\n"
        )
        campaign = {
            "schema": 1,
            "name": _plain(self.file.stem),
            "base": self.reference("base"),
            "experts": {name: self.reference(name) for name in self.experts},
            "search_space": "search_space.yaml",
            "evaluators": list(evaluators),
            "objectives": [self.objective(task) for task in self.found.tasks],
            "optimizer": {"kind": "auto", "population": 20},
            "budget": {"evaluations": 100},
            "evaluation": {"dtype": "bfloat16", "batch_size": 32},
        }
        if tokenizer is not None:
            campaign["tokenizer"] = tokenizer
        return {"campaign.yaml": campaign, "search_space.yaml": space, **evaluators}

    def reference(self, name: str) -> dict[str, str]:
        """A checkpoint reference of the campaign file."""
        hub = self.models.hubs.get(name)
        if hub is None:
            return {"path": str(self.models.folders[name].path)}
        model, _, revision = hub.partition("@")
        return {"hub": model, "revision": revision}

    def tokenizer(self) -> dict[str, Any] | None:
        """Whose vocabulary merges have, as a campaign says it; None where the file does not say."""
        genome = self.found.genome
        inside = {key[1:]: where for key, where in self.positions.items() if key[:1] == ("genome",)}
        fields = {"tokenizer": genome.tokenizer, "tokenizer_source": genome.tokenizer_source}
        stated = read_tokenizer(self.file, fields, inside)
        if stated.source is None:
            return None
        field = "tokenizer" if genome.tokenizer is not None else "tokenizer_source"

        def name_of(model: str | ModelRef, wrong: str) -> str:
            name = model if isinstance(model, str) else self.models.name(model)
            if name not in ("base", UNION, *self.experts):
                raise self.error(field, wrong, "name one of `models`, `base` or `union`")
            return name

        source = name_of(stated.source, "the tokenizer is that of no model which is merged")
        tokens: dict[str, Any] = {}
        for text, entry in stated.tokens.items():
            row: dict[str, Any] = {}
            if entry.model is not None:
                row["source"] = name_of(
                    entry.model, f"{text!r} has the row of no model which is merged"
                )
            if entry.token is not None:
                row["token"] = entry.token
            tokens[text] = row | ({"force": True} if entry.force else {})
        found: dict[str, Any] = {"source": source}
        found |= {"tokens": tokens} if tokens else {}
        return found | ({"pad_to_multiple_of": stated.multiple} if stated.multiple else {})

    def objective(self, task: TaskSection) -> dict[str, str]:
        """Each task is an objective; a negative weight said that less is better."""
        direction = "minimize" if task.weight < 0 else "maximize"
        return {"metric": f"{_plain(task.name)}.{_metric(task.metric)}", "direction": direction}

    def evaluator(self, task: TaskSection) -> dict[str, Any]:
        """A declaration of the tasks that `evomerge split` makes of the one."""
        name = _plain(task.name)
        self.heads[f"evaluators/{name}.yaml"] = (
            f"# mergekit-evolve scored `{task.name}` only. A campaign decides on items its search has not\n"
            "# seen. This splits them, in the campaign's folder, and writes the tasks named here:\n"
            f"#   {_split(task)}\n"
            "# `--include-path DIR` says where a task of your own lies, `--download` fetches its items.\n"
        )
        declaration: dict[str, Any] = {
            "schema": 1,
            "kind": "lm_eval",
            "name": name,
            "include_path": f"{name}/tasks",
            "tasks": {split: f"{name}_{split}" for split in SPLITS},
            "metrics": [_metric(task.metric)],
            "apply_chat_template": self.found.apply_chat_template,
        }
        if self.found.num_fewshot is not None:
            declaration["num_fewshot"] = self.found.num_fewshot
        return declaration

    def space(self) -> dict[str, Any]:
        """The search space: a group of layers is a band."""
        genome = self.found.genome
        spoken = SPOKEN[genome.merge_method]
        field = self.field()
        if genome.merge_method == "slerp":
            if len(self.experts) != 2:
                wrong = "a campaign's slerp runs between exactly two models besides the base_model"
                raise self.error("models", wrong, "name two, and a common base_model of both")
            return {
                "schema": 1,
                "method": "slerp",
                "coefficients": {"t": {**field, "low": 0.0, "high": 1.0}},
            }
        high = 1.0 if genome.merge_method == "linear" else 1.5
        low = -high if genome.allow_negative_weights and genome.merge_method != "linear" else 0.0
        coefficients: dict[str, Any] = {"weight": {**field, "low": low, "high": high}}
        if genome.merge_method in ("ties", "dare_ties"):
            coefficients["density"] = {**field, "low": 0.05, "high": 1.0}
        normalize = genome.normalize
        if normalize is None:
            normalize = genome.merge_method != "task_arithmetic"
        if normalize and low < 0:
            self.left_out.append(
                "negative weights: normalised merges divide by their sum, which may vanish"
            )
            coefficients["weight"]["low"] = 0.0
        rescale = genome.merge_method == "dare_ties"
        options = spoken.options({"normalize": normalize, "rescale": rescale}, with_base=True)
        space: dict[str, Any] = {"schema": 1, "method": spoken.ours, "coefficients": coefficients}
        return space | ({"options": options} if options else {})

    def field(self) -> dict[str, Any]:
        """How a coefficient varies over the layers."""
        genome = self.found.genome
        groups = 1
        if genome.layer_granularity:
            if self.layers % genome.layer_granularity:
                wrong = f"{self.layers} layers cannot be cut into groups of {genome.layer_granularity}"
                raise self.error("layer_granularity", wrong, "")
            groups = self.layers // genome.layer_granularity
        if genome.filters:
            modules = {"self_attn", "mlp"} >= set(genome.filters)
            if modules and genome.layer_granularity == 1 and not genome.smooth:
                return {"field": "layer_module"}
            listed = ", ".join(genome.filters)
            self.left_out.append(
                f"filters ({listed}): coefficients are shared by all tensors of a layer"
            )
        if groups == 1:
            return {"field": "model"}
        if genome.smooth:
            return {"field": "depth_curve", "knots": groups}
        return {"field": "layer"} if groups == self.layers else {"field": "band", "bands": groups}

    def note_rest(self) -> None:
        """What the file says and a campaign does not."""
        found = self.found
        weights = {_plain(t.name): abs(t.weight) for t in found.tasks}
        if len(set(weights.values())) > 1:
            listed = ",".join(f"{name}={weight:g}" for name, weight in weights.items())
            self.left_out.append(
                f"weights of tasks: each is an objective; pick with `export DIR prefer:{listed}`"
            )
        if found.limit is not None:
            self.left_out.append(f"limit {found.limit}: a candidate is scored on all search items")
        if found.apply_chat_template and found.fewshot_as_multiturn and found.num_fewshot:
            self.left_out.append("fewshot_as_multiturn")
        for name in ("shuffle", "random_init"):
            if getattr(found, name):
                self.left_out.append(f"{name}: campaigns are seeded and repeatable")
        self.left_out += self.models.notes


def _ref(text: str, where: tuple[str | int, ...]) -> ModelRef:
    full, _, lora = text.partition("+")
    path, _, revision = full.partition("@")
    adapter, _, adapter_revision = lora.partition("@")
    return ModelRef(path, revision, adapter, adapter_revision, where)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or "task"


def _split(task: TaskSection) -> str:
    """The command that splits a task."""
    name = _plain(task.name)
    words = ["evomerge", "split", task.name, f"evaluators/{name}"]
    return shlex.join(words + (["--name", name] if name != task.name else []))


def _metric(metric: str) -> str:
    return metric.removesuffix(",none")


def _dumped(content: Mapping[str, Any], head: str) -> str:
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = None
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 4096
    writer.dump(dict(content), stream)
    return head + stream.getvalue()
