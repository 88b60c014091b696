"""Scores in the form of lm-eval's `results_*.json`, for the tools that read those files.

The numbers are ours and are those of stock lm-eval on the same tasks; what lm-eval records of its own
run and has no counterpart here (samples, hashes of prompts, environment) is null or empty. Nothing is
imported from lm-eval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, task_files
from evomerge.evaluators.task_files import GENERATION_METRICS, TaskFile, TaskFunction
from evomerge.objectives.scores import Metric, Split

FEWSHOT_SEED = 1234
"""lm-eval's default seed of the few-shot sampler, so that its prompts are ours."""


@dataclass(frozen=True)
class ScoredModel:
    """Of whom the results are, and how they were measured.

    Attributes:
        name: of the model, as a folder or hub id.
        dtype, batch_size, device: of the evaluation.
        date: seconds since 1970 at which it was scored.
        seconds: how long it took; None if unknown.
        recipe: digest of the merge; empty for a checkpoint as it stands.
    """

    name: str
    dtype: str
    batch_size: int
    device: str
    date: float
    seconds: float | None = None
    recipe: str = ""

    @property
    def folder_name(self) -> str:
        """The name as lm-eval makes a folder of it."""
        return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", self.name)


def results_json(
    model: ScoredModel,
    declarations: Sequence[LmEvalDeclaration],
    scores: Mapping[Split, Mapping[str, Metric]],
) -> dict[str, Any]:
    """One results document: each evaluator and split is a task, as lm-eval knows it.

    Args:
        model: what was scored.
        declarations: evaluators of lm-eval tasks; metrics of others are left out.
        scores: split to full metric names to metrics.
    """
    data: dict[str, Any] = {
        key: {}
        for key in (
            "results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
        )
    }  # fmt: skip
    for declaration in declarations:
        files = task_files(declaration)
        for split, metrics in scores.items():
            own = {n: m for n, m in metrics.items() if n.startswith(f"{declaration.name}.")}
            if own:
                _add_task(data, declaration, files[split], own)
    return data | {
        "config": {
            "model": "hf",
            "model_args": {"pretrained": model.name, "dtype": model.dtype},
            "model_dtype": f"torch.{model.dtype}",
            "batch_size": model.batch_size,
            "batch_sizes": [],
            "device": model.device,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            "random_seed": None,
            "numpy_seed": None,
            "torch_seed": None,
            "fewshot_seed": FEWSHOT_SEED,
        },
        "git_hash": None,
        "date": model.date,
        "transformers_version": metadata.version("transformers"),
        "lm_eval_version": metadata.version("lm_eval"),
        "task_hashes": {},
        "model_source": "hf",
        "model_name": model.name,
        "model_name_sanitized": model.folder_name,
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": True,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": None if model.seconds is None else str(model.seconds),
        "evomerge": {"version": metadata.version("evomerge"), "recipe": model.recipe},
    }


def _add_task(
    data: dict[str, Any],
    declaration: LmEvalDeclaration,
    file: TaskFile,
    metrics: Mapping[str, Metric],
) -> None:
    items = max(metric.items for metric in metrics.values())
    result: dict[str, Any] = {"name": file.name, "alias": file.name, "sample_len": items}
    better: dict[str, bool | None] = {}
    for name, metric in sorted(metrics.items()):
        short, _, chosen = name.removeprefix(f"{declaration.name}.").partition(",")
        chosen = chosen or ("none" if short in GENERATION_METRICS else file.filters[0])
        result[f"{short},{chosen}"] = metric.value
        result[f"{short}_stderr,{chosen}"] = metric.stderr
        better[short] = file.metrics.get(short)
    shots = file.config.get("num_fewshot") or 0
    if declaration.num_fewshot is not None and file.config.get("num_fewshot") != 0:
        shots = declaration.num_fewshot
    data["results"][file.name] = result
    data["configs"][file.name] = _plain(file.config) | {"num_fewshot": shots}
    if declaration.gen_kwargs:
        settings = dict(file.config.get("generation_kwargs") or {}) | declaration.gen_kwargs
        data["configs"][file.name]["generation_kwargs"] = settings
    # "Yaml" is what lm-eval calls a task file without a version.
    data["versions"][file.name] = (file.config.get("metadata") or {}).get("version", "Yaml")
    data["n-shot"][file.name] = shots
    data["higher_is_better"][file.name] = better
    data["n-samples"][file.name] = {"original": items, "effective": items}


def _plain(value: Any) -> Any:
    """A task's configuration as JSON data; functions by their names."""
    if isinstance(value, TaskFunction):
        return f"!function {value.name}"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write_results(place: Path, model: ScoredModel, data: Mapping[str, Any]) -> Path:
    """Write a results document and say where.

    A `place` that ends in `.json` is that file; any other is a folder in which lm-eval's own names are
    used, `MODEL/results_DATE.json`, as by its option `--output_path`.
    """
    path = place
    if place.suffix != ".json":
        date = datetime.fromtimestamp(model.date, UTC).replace(tzinfo=None)
        stamp = date.isoformat(timespec="microseconds").replace(":", "-")
        path = place / model.folder_name / f"results_{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
