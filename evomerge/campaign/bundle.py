"""Bundle: one folder with all that a campaign reads, every path in it relative, so that it runs anywhere.

Written into a folder that takes its name when it is complete. `SHA256SUMS` lists every file in the form of
`sha256sum`, which verifies it; `bundle.json` says what it was made of and what a machine needs besides.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from evomerge.campaign.campaign import Campaign
from evomerge.campaign.check import locate
from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.item_files import ItemsDeclaration
from evomerge.evaluators.kinds import KINDS, load_declaration
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, task_files
from evomerge.evaluators.task_files import TaskFile
from evomerge.files.staging import check_space, claim_target, staged_folder
from evomerge.versions import library_versions

SUMS = "SHA256SUMS"
CONTENTS = "bundle.json"
CHUNK = 2**22

NEVER_READ = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".msgpack", ".h5", ".tflite", ".ot"}
)
"""Weights in forms other than safetensors, which no campaign reads."""

Models = Literal["copy", "link"]


@dataclass
class _Plan:
    """What goes where: files by their place in the bundle, texts that are written anew, links to folders."""

    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    links: dict[str, Path] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written: its campaign file, number of files and bytes, and what it does not hold."""

    file: Path
    files: int
    size: int
    needs: tuple[str, ...]


def bundle(campaign: Campaign, out: Path, *, models: Models = "copy", hub: bool = False) -> Bundle:
    """Write a bundle of a campaign that passed `check`.

    Args:
        campaign: as loaded from its file.
        out: a folder that does not exist yet.
        models: whether models of folders are copied, or linked to where they lie.
        hub: whether models of the hub are copied too; otherwise they stay id and commit.

    Raises:
        ConfigError: E152, a task that names a file by an absolute path.
        CheckpointError: a model is not there.
        UsageError: E601, `out` exists.
        EnvironmentFault: E403 no room, E408 cannot be written.
    """
    target = claim_target(out, overwrite=False, todo="give a new folder")
    plan = _planned(campaign, models, hub)
    if plan.problems:
        raise ConfigError(plan.problems)
    check_space(target, sum(path.stat().st_size for path in plan.files.values()))
    with staged_folder(target) as folder:
        sums: dict[str, str] = {}
        for place, text in plan.texts.items():
            sums[place] = _written(folder / place, text.encode())
        for place, source in plan.files.items():
            sums[place] = _copied(source, folder / place)
        for place, source in plan.links.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).symlink_to(source, target_is_directory=True)
            for path in _model_files(source):
                sums[f"{place}/{path.relative_to(source).as_posix()}"] = _digest(path)
        contents = {
            "schema": 1,
            "campaign": campaign.config.name,
            "versions": library_versions(),
            "needs": plan.needs,
        }
        sums[CONTENTS] = _written(folder / CONTENTS, (json.dumps(contents, indent=1) + "\n").encode())
        lines = "".join(f"{digest}  {place}\n" for place, digest in sorted(sums.items()))
        _written(folder / SUMS, lines.encode())
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Bundle(target / "campaign.yaml", len(sums) + 1, size, tuple(plan.needs))


def _planned(campaign: Campaign, models: Models, hub: bool) -> _Plan:
    plan = _Plan()
    if campaign.start_from:
        wrong, todo = (
            "a bundle cannot hold what other campaigns found",
            "leave it out of the file that is bundled",
        )
        plan.problems.append(
            Problem("E152", wrong, "", todo, str(campaign.file), field="optimizer.start_from")
        )
    document = _editable(campaign.file)
    if campaign.space.calibration:
        inline = campaign.space_file == campaign.file
        stated = (document["search_space"] if inline else _editable(campaign.space_file))["calibration"]
        if Path(stated).is_absolute() or ".." in Path(stated).parts:
            wrong, todo = "a bundle holds only what lies below its file", "put the text beside the file"
            plan.problems.append(
                Problem("E152", wrong, "", todo, str(campaign.space_file), field="calibration")
            )
        plan.files[stated] = Path(campaign.space.calibration)
    for name, reference in campaign.references().items():
        if reference.hub is not None and not hub:
            plan.needs.append(f"`{name}`: {reference.hub} at {reference.revision} in the hub's cache")
            continue
        source, place = Path(locate(name, reference)), f"models/{name}"
        if models == "link" and reference.hub is None:
            plan.links[place] = source
        else:
            for path in _model_files(source):
                plan.files[f"{place}/{path.relative_to(source).as_posix()}"] = path
        stated = document["base"] if name == "base" else document["experts"][name]
        for key in ("hub", "revision"):
            stated.pop(key, None)
        stated["path"] = place
    if campaign.space_file != campaign.file:
        document["search_space"] = "search_space.yaml"
        plan.files["search_space.yaml"] = campaign.space_file
    document["evaluators"] = [
        _plan_evaluator(plan, load_declaration(path), path) for path in campaign.evaluator_files
    ]
    if Path(document.get("results") or "").is_absolute():
        document["results"] = "results"  # of its own: the one here is on no other machine
    plan.texts["campaign.yaml"] = _as_text(document)
    return plan


def _plan_evaluator(plan: _Plan, declaration: Declaration, file: Path) -> str:
    """Its files and its declaration with their new places; gives the declaration's own."""
    own, place = f"evaluators/{declaration.name}", f"evaluators/{declaration.name}.yaml"
    document = _editable(file)
    if declaration.kind not in KINDS:
        plan.needs.append(
            f"evaluator `{declaration.name}`: what provides the kind `{declaration.kind}`"
        )
    if isinstance(declaration, LmEvalDeclaration):
        _plan_tasks(plan, declaration, own, document)
    elif isinstance(declaration, ItemsDeclaration) and declaration.files:
        named = {
            split: f"{declaration.name}/{path.name}"
            if len({p.name for p in declaration.files.values()}) == len({*declaration.files.values()})
            else f"{declaration.name}/{split}-{path.name}"
            for split, path in declaration.files.items()
        }
        for split, path in declaration.files.items():
            plan.files[f"evaluators/{named[split]}"] = path
        one = isinstance(document[declaration.source], str)
        document[declaration.source] = named["search"] if one else dict(named)
    plan.texts[place] = _as_text(document)
    return place


def _plan_tasks(plan: _Plan, declaration: LmEvalDeclaration, own: str, document: Any) -> None:
    """The files of three tasks, laid out among themselves as they are, since they name each other so."""
    tasks = {task.name: task for task in task_files(declaration).values()}
    for task in tasks.values():
        if task.hub_data is not None:
            plan.needs.append(f"task {task.name}: the data set {task.hub_data}")
    if declaration.include_path is None:
        plan.needs.append(f"evaluator `{declaration.name}`: the tasks installed with lm-eval")
        return
    for task in tasks.values():
        plan.problems += _absolute_paths(task)
    needed = sorted({path.resolve() for task in tasks.values() for path in _files_of(task)})
    include = Path(declaration.include_path).resolve()
    root = Path(os.path.commonpath([include, *(path.parent for path in needed)]))
    for path in needed:
        plan.files[f"{own}/{path.relative_to(root).as_posix()}"] = path
    inner = include.relative_to(root).as_posix()
    document["include_path"] = declaration.name if inner == "." else f"{declaration.name}/{inner}"


def _files_of(task: TaskFile) -> Iterator[Path]:
    """The YAML, data and, where it runs code, Python files of a task."""
    yield from task.sources
    yield from task.data_files()
    if task.code:
        yield from task.path.parent.glob("**/*.py")


def _absolute_paths(task: TaskFile) -> list[Problem]:
    """E152 for what a bundle could not hold in its place."""
    named = task.config.get("dataset_kwargs") or {}
    text = json.dumps(named.get("data_files", ""), default=str)
    entries = [word for word in text.split('"') if word.startswith("/")]
    entries += [str(path) for path in task.local_data_set]
    todo = "name it relative to the task file"
    return [
        Problem("E152", f"task {task.name} names a file by an absolute path", f"found {entry}", todo,
                str(task.path))
        for entry in entries
    ]  # fmt: skip


def _model_files(folder: Path) -> list[Path]:
    """What a campaign may read of a model folder, links followed."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in NEVER_READ
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _editable(file: Path) -> Any:
    """A YAML document that keeps its comments."""
    return YAML(typ="rt").load(file.read_text(encoding="utf-8"))


def _as_text(document: Any) -> str:
    yaml = YAML(typ="rt")
    yaml.width = 10_000
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _written(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _copied(source: Path, target: Path) -> str:
    """SHA-256 of what was written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    with source.open("rb") as reads, target.open("wb") as writes:
        while chunk := reads.read(CHUNK):
            hasher.update(chunk)
            writes.write(chunk)
    return hasher.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
