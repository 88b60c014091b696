"""Faults between fields of a campaign file that are each sound by themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.campaign.devices import device_faults
from evomerge.campaign.file import CampaignFile, OptimizerSection, WorkersSection
from evomerge.errors import ConfigError, Problem
from evomerge.files.yaml_file import Positions, place
from evomerge.objectives.constraint import faults_between
from evomerge.objectives.objective import Objective
from evomerge.objectives.preference import preference
from evomerge.objectives.region import is_region, region
from evomerge.optimizers.kinds import optimizer_settings, refuse_focus, refuse_region
from evomerge.optimizers.stage import Searched, stage_kind
from evomerge.recipe.recipe import UNION, head_owner
from evomerge.search_space import SearchSpaceDeclaration


def faults_across_fields(data: Mapping[str, Any], positions: Positions, file: Path) -> list[Problem]:
    """Faults between fields, looked for in the raw data: other faults of the file must not hide them."""
    problems = []

    def section(name: str) -> Mapping[str, Any]:
        value = data.get(name)
        return value if isinstance(value, dict) else {}

    budget = section("budget").get("evaluations")
    optimizer = section("optimizer")
    # A default says nothing about a section whose field names are misspelt.
    known = set(optimizer) <= set(OptimizerSection.model_fields)
    population = optimizer.get("population", OptimizerSection().population if known else None)
    if type(budget) is int and type(population) is int and 0 < budget < population:
        wrong = f"a population of {population} needs a budget of at least as many evaluations"
        where = place(positions, file, "budget", "evaluations")
        problems.append(Problem("E112", wrong, f"found {budget}", "", *where))
    problems += _optimizer_faults(optimizer, positions, file)
    constraints = data.get("constraints")
    between = faults_between(
        constraints if isinstance(constraints, list) else [], [*section("experts")]
    )
    for index, code, wrong in between:
        where = place(positions, file, "constraints", index)
        problems.append(Problem(code, wrong, "", "", *where))
    source = section("tokenizer").get("source")
    known_sources = ("base", UNION, *section("experts"))
    if isinstance(source, str) and source not in known_sources:
        wrong = "no such source of a tokenizer"
        where = place(positions, file, "tokenizer", "source")
        todo = f"known: {', '.join(known_sources)}"
        problems.append(Problem("E133", wrong, f"found {source!r}", todo, *where))
    tokens = section("tokenizer").get("tokens")
    for text, entry in tokens.items() if isinstance(tokens, dict) else ():
        owner = entry.get("source", "") if isinstance(entry, dict) else ""
        if isinstance(owner, str) and owner not in ("", "base", *section("experts")):
            wrong = "no such source of a token's row"
            where = place(positions, file, "tokenizer", "tokens", text, "source")
            todo = f"known: {', '.join(('base', *section('experts')))}; leave it out for zeros"
            problems.append(Problem("E133", wrong, f"found {owner!r}", todo, *where))
    rope = data.get("rope")
    if isinstance(rope, str) and rope not in ("base", *section("experts")):
        todo = f"known: {', '.join(('base', *section('experts')))}"
        where = place(positions, file, "rope")
        wrong = "no such source of rotary positions"
        problems.append(Problem("E133", wrong, f"found {rope!r}", todo, *where))
    heads = data.get("heads")
    if isinstance(heads, str) and head_owner(heads) not in ("", "base", *section("experts")):
        todo = f"known: {', '.join(('base', *section('experts')))}"
        where = place(positions, file, "heads")
        problems.append(Problem("E133", "no such source of a head", f"found {heads!r}", todo, *where))
    workers = section("workers")
    if set(workers) <= set(WorkersSection.model_fields):
        for field, wrong, found, todo in device_faults(workers, section("evaluation")):
            problems.append(Problem("E142", wrong, found, todo, *place(positions, file, *field)))
    seen: dict[object, str] = {}
    for name, entry in {"base": section("base"), **section("experts")}.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("path", entry.get("hub")), str):
            continue
        folder = entry.get("path")
        key = (
            os.path.normpath(file.parent / folder) if folder else (entry["hub"], entry.get("revision"))
        )
        if key in seen:
            wrong = f"`{seen[key]}` and `{name}` are the same files"
            where = place(positions, file, "experts", name)
            problems.append(Problem("E117", wrong, "", "leave one out", *where))
        seen.setdefault(key, str(name))
    return problems


def _optimizer_faults(section: Mapping[str, Any], positions: Positions, file: Path) -> list[Problem]:
    """An unknown kind of optimizer and faults of its options, as far as their YAML types are right."""
    kind, options = section.get("kind", OptimizerSection().kind), section.get("options", {})
    if not isinstance(kind, str) or not isinstance(options, dict):
        return []
    try:
        plain = {n: value for n, value in options.items() if isinstance(value, str | int | float)}
        optimizer_settings(kind, plain)
    except ConfigError as error:
        faults = []
        for problem in error.problems:
            option = problem.field.removeprefix("optimizer.options.")
            path = ("kind",) if option == problem.field else ("options", option)
            name, line, column, field = place(positions, file, "optimizer", *path)
            faults.append(replace(problem, file=name, line=line, column=column, field=field))
        return faults
    return []


def stage_faults(
    config: CampaignFile, space: SearchSpaceDeclaration, positions: Positions, file: Path
) -> list[Problem]:
    """Stages that cannot follow one another, or of kinds that cannot search their part."""
    if not config.stages:
        return []
    where = place(positions, file, "stages")
    problems = []
    if space.layer_path is None:
        todo = "give the search space a `layer_path`, or leave out `stages`"
        problems.append(Problem("E119", "stages search merges and paths of layers", "", todo, *where))
    if config.optimizer.schedule != "generational" or config.optimizer.focus is not None:
        wrong = "stages go by generations, and know no focus"
        problems.append(
            Problem("E119", wrong, "", "leave out `optimizer.schedule` and `focus`", *where)
        )
    for index, stage in enumerate(config.stages):
        where = place(positions, file, "stages", index)
        if stage.evaluations is None and index + 1 < len(config.stages):
            wrong = "only the last stage takes what is left"
            problems.append(Problem("E119", wrong, "", "give `evaluations`", *where))
        kind = stage_kind(stage.searches, stage.kind, first=index == 0)
        for wrong, found, todo in _misplaced(kind, stage.searches, index):
            problems.append(Problem("E119", wrong, found, todo, *where))
        try:
            optimizer_settings(kind, stage.options)
        except ConfigError as error:
            problems += [Problem(p.code, p.wrong, p.found, p.todo, *where) for p in error.problems]
    return problems


def _misplaced(kind: str, searches: Searched, index: int) -> list[tuple[str, str, str]]:
    """What is wrong, found and to do where a stage is none for its kind."""
    refused = f"`{kind}` cannot search a stage of {searches}"
    if kind == "hm3" and searches == "merge":
        return [(refused, "it walks paths of layers", "let it search `path` or `both`")]
    if kind != "learned-front":
        return []
    todo = "begin with `{searches: merge, kind: learned-front}`, and search paths in a stage after it"
    if searches != "merge":
        return [(refused, "gradients are those of a merge with all layers in order, no path's", todo)]
    if index > 0:
        wrong = "`learned-front` can only be the first stage"
        return [(wrong, "its map begins at the experts, not at a front, nor at the paths of one", todo)]
    return []


def focus_faults(config: CampaignFile, positions: Positions, file: Path) -> list[Problem]:
    """A focus of an optimizer that knows none, or on objectives that there are not."""
    section = config.optimizer
    if section.focus is None:
        return []
    where = place(positions, file, "optimizer", "focus")
    objectives = [Objective(o.metric, o.direction) for o in config.objectives]
    try:
        if isinstance(section.focus, str) and is_region(section.focus):
            region(objectives, section.focus)
            refuse_region(section.kind)
        else:
            preference(objectives, section.focus)
            refuse_focus(section.kind, True)
    except ValueError as error:
        return [Problem("E108", str(error), "", "", *where)]
    except ConfigError as error:
        # An unknown kind is told of elsewhere.
        refused = [problem for problem in error.problems if problem.field == "optimizer.focus"]
        return [Problem(p.code, p.wrong, p.found, p.todo, *where) for p in refused]
    return []


def worker_fields_without_effect(
    workers: WorkersSection, positions: Positions, file: Path
) -> list[Problem]:
    """Warnings (E142) for what other pools would look at: an address, a number of workers."""
    found = []
    if workers.address is not None and workers.pool != "ray":
        words = (f"`pool: {workers.pool}` has no address", workers.address, "write `pool: ray`")
        found.append(("address", *words))
    if workers.count > 1 and workers.pool == "inline":
        words = ("`pool: inline` is one worker", str(workers.count), "write `pool: local`")
        found.append(("count", *words))
    return [
        Problem(
            "E142",
            wrong,
            f"found {shown}",
            f"{todo}, or leave it out",
            *place(positions, file, "workers", name),
        )
        for name, wrong, shown, todo in found
    ]
