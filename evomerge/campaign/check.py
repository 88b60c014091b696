"""Check: every fault of a campaign that can be seen without reading a weight, all in one report.

Headers, configs, task files and, where asked for, data sets: no torch (but for tasks whose own Python makes
their items), no Ray, no device. What needs the weights themselves (NaN, an expert equal to the base) is found
by the `prepare` job before the first candidate.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from evomerge.campaign.across_fields import worker_fields_without_effect
from evomerge.campaign.campaign import Campaign
from evomerge.campaign.check_evaluators import cannot_be_sent, cannot_chat, open_evaluators
from evomerge.campaign.check_mixture import cannot_be_mixed
from evomerge.campaign.check_objectives import (
    benchmark_items,
    bounds_in_percent,
    cannot_race,
    learns,
    may_teach,
    measured_by_the_clock,
    no_ensemble,
    no_gradients,
    odd_counts,
    wrong_heads,
    wrong_metrics,
)
from evomerge.campaign.checkpoint_reference import CheckpointReference
from evomerge.campaign.devices import check_device
from evomerge.campaign.estimates import estimates_of
from evomerge.campaign.items import item_counts, leaks
from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.architecture import unknown_architecture
from evomerge.checkpoint.by_peft import foreseen, merge_note, require_peft
from evomerge.checkpoint.compare import MERGED_ANYWAY, compare_with_base
from evomerge.checkpoint.folder import CheckpointFolder, is_adapter, open_folder
from evomerge.checkpoint.hub import cached_snapshot, download_hint, missing_files
from evomerge.checkpoint.model_form import with_head_of, with_heads
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.residual import residual_writers
from evomerge.checkpoint.text_tower import with_text_towers
from evomerge.checkpoint.vocabulary import aligned_folders
from evomerge.errors import CheckpointError, ConfigError, EnvironmentFault, Problem
from evomerge.evaluators.declaration import OpenedItems
from evomerge.ledger.events import Grant
from evomerge.objectives.scores import Split
from evomerge.optimizers.kinds import optimizer_settings, refuse_paths
from evomerge.optimizers.stage import refuse_stages
from evomerge.recipe.recipe import DTYPES, UNION, CheckpointSource
from evomerge.search_space import ModelLayout, SearchSpace, build_search_space


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        problems: faults that stop a run; `warnings` do not.
        paths: `base` and experts to their folders, as far as found.
        storage: dtype merges are rounded to.
        layout: of the base, None if it cannot be read.
        genes: number of genes, before `prepare` drops those without effect.
        space: the search space of these, in bfloat16 and without the campaign's form; None if it has faults.
        weights: content digests of base and experts, None where weights were not read (`run.deep_check`).
        items: number of items by evaluator and split, where data sets were opened.
        estimates: `parameters`, `items` (search items of all evaluators), `evaluations`,
            `memory_bytes` (all workers), `disk_bytes` (campaign folder and one export), `seconds`
            (rough, on processors only), `calibration_bytes` (statistics of the experts on a text, of which
            each worker holds all), `mixture_bytes` (the largest mixture, of which each worker holds one).
        starts: files and folders of `start_from` to how many points are taken of each at most
            (`run.check_starts`).
        learns: whether the optimizer, or that of the first stage, learns from gradients; of some evaluators
            only the items tell whether there are any.
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    storage: str = "bfloat16"
    layout: ModelLayout | None = None
    genes: int = 0
    space: SearchSpace | None = field(default=None, repr=False, compare=False)
    items: dict[str, dict[Split, int]] = field(default_factory=dict)
    weights: dict[str, str] | None = None
    estimates: dict[str, float] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    learns: bool = False

    def raise_problems(self) -> None:
        """Raise what stops a run; nothing if there is nothing.

        Raises:
            CheckpointError: if only checkpoints have faults.
            ConfigError: otherwise.
        """
        if not self.problems:
            return
        if all(problem.code.startswith("E2") for problem in self.problems):
            raise CheckpointError(self.problems)
        raise ConfigError(self.problems)


def grants_of(task_code: bool, benchmark_test: bool) -> frozenset[Grant]:
    """What a person allowed by name for a session."""
    asked: dict[Grant, bool] = {"task_code": task_code, "benchmark_test": benchmark_test}
    return frozenset(grant for grant, given in asked.items() if given)


def check_campaign(
    campaign: Campaign, grants: Collection[Grant] = (), *, data: bool = False
) -> CheckReport:
    """Look at everything a campaign names; faults are collected, never raised.

    Args:
        campaign: as loaded.
        grants: what the person allowed by name: without `task_code` a task that runs code is a fault
            (E126), without `benchmark_test` a search on the items a public benchmark is scored on (E127).
        data: whether to open data sets that are no local JSON lines (E144 where one is not on this machine),
            which may take seconds. A run does so in its workers.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    paths, folders = _open_checkpoints(campaign, problems, warnings)
    base = folders.get("base")
    storage: str = campaign.config.dtype or "bfloat16"
    layout, space = None, None
    if isinstance(base, CheckpointFolder):
        storage = campaign.config.dtype or _storage_dtype(base)
        if not problems:
            folders = _in_form(campaign, folders, problems)
            base = cast("CheckpointFolder", folders["base"])
            more = [found for folder in folders.values() for found in folder.warnings]
            warnings += [found for found in more if campaign.form.towers and found.code == "E226"]
        layout = base.layout_by(tensor=campaign.space.by_tensor, row=campaign.space.by_row)
        experts = [folders[name] for name in campaign.experts if name in folders]
        problems += unknown_architecture(base)
        for found in compare_with_base(base, experts):
            if campaign.tokenizer is not None and found.code in ("E226", "E227"):
                continue
            if found.code == "E245" and _allows_rope(campaign, paths, found):
                taken = campaign.form.rope or "the base"
                warnings.append(replace(found, todo=f"allowed: merges have those of {taken}"))
                continue
            (warnings if found.code in MERGED_ANYWAY else problems).append(found)
        warnings += _without_rows(campaign, base)
        space = _built_space(campaign, layout, paths, problems)
        problems += _cannot_be_scaled(campaign, base)
        if campaign.config.evaluation.dtype == "float16" and storage != "float16":
            wrong = (
                f"merges are stored as {storage} and scored in float16, whose largest number is 65504"
            )
            todo = "bfloat16 does not overflow"
            warnings.append(campaign.fault(("evaluation", "dtype"), "E132", wrong, "", todo))
    opened: dict[Path, OpenedItems] = {}
    declarations = open_evaluators(campaign, problems, "task_code" in grants, opened if data else None)
    problems += cannot_be_sent(campaign, declarations)
    if isinstance(base, CheckpointFolder):
        problems += cannot_be_mixed(campaign, base, declarations.values())
    source = "base" if campaign.tokenizer in (None, UNION) else campaign.tokenizer
    if source in paths:
        problems += cannot_chat(declarations.values(), Path(paths[source]))
    problems += wrong_metrics(campaign, declarations)
    unreachable, idle = bounds_in_percent(campaign, declarations)
    problems += unreachable
    warnings += idle
    problems += wrong_heads(campaign, declarations)
    learning = False
    if space is not None and len(declarations) == len(campaign.evaluator_files):
        sources = may_teach(campaign, declarations)
        problems += no_gradients(campaign, space, sources)
        learning = learns(campaign, space, sources)
    problems += no_ensemble(campaign, {d.name: d.has_losses for d in declarations.values()})
    if not problems:
        problems += [*leaks(campaign, declarations, opened), *cannot_race(campaign, declarations)]
    if "benchmark_test" not in grants:
        problems += benchmark_items(campaign, declarations)
    warnings += odd_counts(campaign)
    warnings += worker_fields_without_effect(campaign.config.workers, campaign.positions, campaign.file)
    if campaign.results is not None and campaign.results.exists() and not campaign.results.is_dir():
        wrong, todo = "evaluations are shared in a folder", "name a folder; it is made if new"
        problems.append(
            campaign.fault(("results",), "E135", wrong, f"{campaign.results} is a file", todo)
        )
    warnings += measured_by_the_clock(campaign, declarations)
    estimates: dict[str, float] = {}
    if layout is not None and isinstance(base, CheckpointFolder) and not problems:
        estimates = estimates_of(campaign, layout, base, storage, declarations, opened)
    items = item_counts(declarations, opened)
    genes = 0 if space is None else len(space.genes)
    report = CheckReport(problems, warnings, paths, storage, layout, genes, space, learns=learning)
    return replace(report, items=items, estimates=estimates)


def _allows_rope(campaign: Campaign, paths: Mapping[str, str], problem: Problem) -> bool:
    """Whether an expert may have other rotary positions than the base."""
    stated = campaign.references().items()
    allowed = {paths.get(name) for name, reference in stated if "rope" in (reference.allow or ())}
    chosen = bool(campaign.form.rope) or campaign.tokenizer in (None, "base", UNION)
    return problem.file in allowed and chosen


def locate(name: str, reference: CheckpointReference) -> str:
    """The folder of a checkpoint reference; hub models come from the local cache only.

    Raises:
        CheckpointError: E201, if a hub model is not in the cache; E238, if only a part of it is.
    """
    if reference.path is not None:
        return reference.path
    folder = cached_snapshot(str(reference.hub), str(reference.revision))
    todo = download_hint(str(reference.hub), str(reference.revision))
    if folder is None:
        wrong = f"`{name}`: this commit of {reference.hub} is not in the local hub cache"
        raise CheckpointError(Problem("E201", wrong, "", todo, field=name))
    if missing := missing_files(folder):
        wrong = f"`{name}`: the download of {reference.hub} is not complete"
        found = f"{len(missing)} missing: {', '.join(missing[:5])}"
        raise CheckpointError(Problem("E238", wrong, found, todo, str(folder), field=name))
    return str(folder)


def _open_checkpoints(
    campaign: Campaign, problems: list[Problem], warnings: list[Problem]
) -> tuple[dict[str, str], dict[str, CheckpointFolder | AdapterFolder]]:
    """Where the checkpoints lie, and what they are; what PEFT will merge as the full model it will be."""
    paths: dict[str, str] = {}
    folders: dict[str, CheckpointFolder | AdapterFolder] = {}
    for name, reference in campaign.references().items():
        try:
            paths[name] = locate(name, reference)
            base = folders.get("base")
            if name == "base":
                folders[name] = open_folder(paths[name], name)
            elif isinstance(base, CheckpointFolder):
                folders[name] = open_source(paths[name], name, base)
            elif not is_adapter(Path(paths[name])):
                folders[name] = open_folder(paths[name], name)
            else:
                continue
            opened = folders[name]
            warnings += opened.warnings
            if isinstance(opened, AdapterFolder) and not opened.factored:
                require_peft(opened)
                warnings.append(merge_note(opened))
                folders[name] = foreseen(opened)
        except (CheckpointError, EnvironmentFault) as error:
            problems += [_in_the_campaign(campaign, name, problem) for problem in error.problems]
    return paths, folders


def _in_the_campaign(campaign: Campaign, name: str, problem: Problem) -> Problem:
    """A folder that is missing is a fault of the line that names it."""
    stated = (campaign.config.base if name == "base" else campaign.config.experts[name]).path
    if stated is None and problem.code in ("E201", "E238"):
        named = ("base", "hub") if name == "base" else ("experts", name, "hub")
        return campaign.fault(named, problem.code, problem.wrong, problem.found, problem.todo)
    if problem.code != "E201" or stated is None:
        return problem
    todo = problem.todo
    if todo == "check the path" and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", stated):
        todo += "; a model of the hub is written `{hub: " + stated + ", revision: COMMIT}`"
    where = ("base", "path") if name == "base" else ("experts", name, "path")
    return campaign.fault(where, problem.code, problem.wrong, f"found {problem.file}", todo)


def _in_form(
    campaign: Campaign,
    folders: dict[str, CheckpointFolder | AdapterFolder],
    problems: list[Problem],
) -> dict[str, CheckpointFolder | AdapterFolder]:
    """The checkpoints with heads and vocabulary as the campaign states; as they are where that cannot be."""
    target = None if campaign.tokenizer == UNION else campaign.tokenizer
    try:
        if campaign.form.towers:
            folders = with_text_towers(folders)
        if campaign.form.untied:
            folders = with_heads(folders)
        if campaign.form.head_owner:
            folders = with_head_of(folders, campaign.form.head_owner)
        if campaign.tokenizer is None:
            return folders
        if target is not None and not isinstance(folders[target], CheckpointFolder):
            todo = "name a full model"
            wrong = "an adapter has no vocabulary of its own"
            raise CheckpointError(campaign.fault(("tokenizer", "source"), "E133", wrong, "", todo))
        form = campaign.form
        return aligned_folders(folders, "base", target, form.tokens, form.pad_to_multiple_of)[0]
    except CheckpointError as error:
        problems += error.problems
        return folders


def _storage_dtype(base: CheckpointFolder) -> str:
    """The dtype that most of the base's parameters have."""
    elements: dict[str, int] = {}
    for header in base.tensors.values():
        elements[header.dtype] = elements.get(header.dtype, 0) + header.elements
    most = max(elements, key=lambda dtype: elements[dtype])
    return most if most in DTYPES else DTYPES[0]


def _built_space(
    campaign: Campaign, layout: ModelLayout, paths: Mapping[str, str], problems: list[Problem]
) -> SearchSpace | None:
    sources = {name: CheckpointSource(paths.get(name, "")) for name in ("base", *campaign.experts)}
    try:
        space = build_search_space(
            campaign.space,
            layout,
            sources,
            campaign.experts,
            "bfloat16",
            campaign.config.seed,
            str(campaign.space_file),
        )
    except ConfigError as error:
        problems += error.problems
        return None
    try:
        _refuse_searches(campaign, space)
    except ConfigError as error:
        problems += [replace(problem, file=str(campaign.file)) for problem in error.problems]
    return space


def _without_rows(campaign: Campaign, base: CheckpointFolder) -> list[Problem]:
    """A warning for matrices that have one value though the field is `row`."""
    places = base.without_rows if campaign.space.by_row else ()
    if not places:
        return []
    wrong = (
        "matrices that are stored as [in, out], stacked, or at one place with others that have another "
        "number of rows have one value and not one for each row"
    )
    found = f"{len(places)} of {len(places) + len(base.row_layout.rows)}, {places[0]} the first"
    where = str(campaign.space_file)
    return [Problem("E155", wrong, found, file=where, field="coefficients.weight.field")]


def _refuse_searches(campaign: Campaign, space: SearchSpace) -> None:
    """What the optimizer, or that of a stage, cannot do in the space."""
    section = campaign.config.optimizer
    settings = optimizer_settings(section.kind, section.options)
    refuse_paths(section.kind, space.genes, campaign.focus is not None, settings)
    refuse_stages(campaign.stages, space.genes)
    for number, stage in enumerate(campaign.stages):
        try:
            refuse_paths(stage.kind, space.genes, False, stage.settings)
        except ConfigError as error:
            field = f"stages.{number}"
            raise ConfigError([replace(problem, field=field) for problem in error.problems]) from error


def _cannot_be_scaled(campaign: Campaign, base: CheckpointFolder) -> list[Problem]:
    """E234, where a path has scales that no weights can hold."""
    section = campaign.space.layer_path
    if section is None or section.scale is None:
        return []
    try:
        for layer in range(base.layers):
            residual_writers(base, layer)
    except CheckpointError as error:
        todo = "leave out `layer_path.scale`"
        where = str(campaign.space_file)
        found = f"{error.problems[0].found}: {base.path}"
        return [
            replace(error.problems[0], found=found, todo=todo, file=where, field="layer_path.scale")
        ]
    return []


def check_devices(campaign: Campaign) -> None:
    """See that workers of this machine find their devices; those of a cluster look for themselves.

    Raises:
        EnvironmentFault: E401.
    """
    workers, device = campaign.config.workers, campaign.config.evaluation.device
    if workers.address is not None:
        return
    try:
        check_device(device, "write `evaluation.device: cpu` for a trial")
    except EnvironmentFault as error:
        (fault,) = error.problems
        words = (fault.code, fault.wrong, fault.found, fault.todo)
        raise EnvironmentFault(campaign.fault(("evaluation", "device"), *words)) from None
    if workers.gpus > 1:
        import torch

        found = torch.cuda.device_count()
        if found < workers.gpus:
            wrong = f"a worker asks for {workers.gpus:g} devices"
            problem = Problem("E401", wrong, f"found {found} here", "", field="workers.gpus")
            raise EnvironmentFault(problem)
