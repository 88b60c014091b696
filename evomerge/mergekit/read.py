"""A mergekit YAML to a `Recipe` with mergekit's semantics: the slices planned, then the rest of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.habits import stop_ids
from evomerge.checkpoint.rope import same_rope
from evomerge.checkpoint.vocabulary import same_vocabulary, token_ids
from evomerge.errors import ConfigError, Problem
from evomerge.mergekit.chat import chat_template_text
from evomerge.mergekit.document import Document, ModelRef
from evomerge.mergekit.form import read_document
from evomerge.mergekit.models import Folder, Models
from evomerge.mergekit.settings import Setting
from evomerge.mergekit.slices import SlicePlan
from evomerge.mergekit.speech import STILL
from evomerge.mergekit.virtual import VirtualSource, stated_tables
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import (
    DTYPES,
    UNION,
    UNTIE,
    CheckpointSource,
    MergedSource,
    Recipe,
    Source,
    TokenRow,
)


@dataclass(frozen=True)
class MergekitMerge:
    """What a file amounts to.

    Attributes:
        recipe: with paths that exist; digests are not filled in.
        hubs: hub name of each source that came from the hub's cache.
        notes: where mergekit's arithmetic or files would differ, and what has no effect.
    """

    recipe: Recipe
    hubs: Mapping[str, str]
    notes: tuple[str, ...]


def read_mergekit(file: Path) -> MergekitMerge:
    """Read a mergekit YAML and look at the headers of its models.

    Raises:
        ConfigError: as `read_document`; E103 a parameter without value, E111 one out of range, E119 a layer
            a model does not have, E137 what a recipe cannot say, with its line.
        CheckpointError: E201 a model is not on this machine; others as in opening them.
    """
    document = read_document(file)
    models = Models(document)
    if document.base is not None:
        models.name(document.base, "base")
    plan = SlicePlan(document, models)
    for entry in document.slices:
        plan.open(entry)
    plan.untie()
    for entry in document.slices:
        plan.add(entry)
    return _finish(plan)


def _finish(plan: SlicePlan) -> MergekitMerge:
    """The recipe, once every slice is in."""
    document, models = plan.document, plan.models
    template = chat_template_text(document, models)
    notes = [*document.notes, *models.notes, *_unmatched(plan)]
    merged = {source.name: _merged(plan, source) for source in plan.virtual}
    checkpoints = _checkpoints(plan, merged.values())
    tokenizer, align = _tokenizer(plan, checkpoints)
    dtype = document.out_dtype or document.dtype or _promoted(models.folders.values())
    if document.dtype != "float32":
        notes.append(
            f"mergekit would compute in {document.dtype or dtype}; here in float32, rounded once"
        )
    if plan.method.ours in ("dare_linear", "dare_ties", "della", "della_linear"):
        notes.append("random masks are ours: the same recipe gives the same masks anywhere")
    if any(_on_whole_arcs(source) for source in merged.values()):
        notes.append(STILL)
    if document.tokenizer is not None and not align:
        notes.append("the vocabularies are the same: nothing to align, padding rows stay")
    # mergekit merges models whose rotary positions differ, and takes the config of the base.
    named = tokenizer if tokenizer in models.folders else plan.first
    first = text_config(plan.full(named).config)
    others = {n for n in checkpoints if not same_rope(first, text_config(plan.full(n).config))}
    sources: dict[str, Source] = {
        name: CheckpointSource(
            path, on=_read_against(plan, name), allow=("rope",) if name in others else ()
        )
        for name, path in models.paths.items()
        if name in checkpoints
    }
    recipe = Recipe(
        sources=sources | merged,
        path=tuple(plan.path),
        outer=plan.outer,
        dtype=dtype,
        tokenizer=tokenizer,
        align=align,
        chat_template=template,
        tokens=_tokens(plan, checkpoints),
        pad_to_multiple_of=plan.document.multiple,
        heads=UNTIE if plan.untied else "",
    )
    hubs = {name: hub for name, hub in models.hubs.items() if name in checkpoints}
    return MergekitMerge(recipe, hubs, tuple(dict.fromkeys(notes)))


def _merged(plan: SlicePlan, source: VirtualSource) -> MergedSource:
    """The finished form of a merged source."""
    options = plan.method.options(source.flags, source.base is not None)
    if plan.method.name == "passthrough":
        options = {"normalise": "no"}
    coefficients = stated_tables(METHODS[plan.method.ours], source.leaves)
    if plan.method.name == "ram":
        coefficients["r"] = {"*": {"": 0.0}}
    return MergedSource(
        method=plan.method.ours,
        inputs=source.inputs,
        base=source.base,
        coefficients=coefficients,
        options=options,
        shifts=source.shifts,
    )


def _on_whole_arcs(source: MergedSource) -> bool:
    """Whether it is NuSLERP of whole task vectors."""
    options = METHODS[source.method].resolve(source.options)
    return source.method == "nuslerp" and (options.around, options.along) == ("base", "tensor")


def _read_against(plan: SlicePlan, name: str) -> str:
    """The model that an adapter is read against, where a recipe must say it."""
    folder = plan.models.folders[name]
    plain = all(source.base in (None, "base") for source in plan.virtual)
    if not isinstance(folder, AdapterFolder) or (plain and folder.base.name == "base"):
        return ""
    return folder.base.name


def _checkpoints(plan: SlicePlan, merged: Iterable[MergedSource]) -> set[str]:
    """The names a recipe must have: those in use, and the full models of adapters."""
    used = {step.source for step in plan.path} | set(plan.outer.values())
    for source in merged:
        used |= {*source.inputs, *([source.base] if source.base is not None else [])}
    for name in list(used):
        folder = plan.models.folders.get(name)
        if isinstance(folder, AdapterFolder):
            used.add(folder.base.name)
    template = plan.document.tokenizer
    used.add(plan.first)
    if isinstance(template, ModelRef):
        used.add(plan.models.name(template))
    return used & set(plan.models.folders)


def _tokenizer(plan: SlicePlan, checkpoints: set[str]) -> tuple[str, bool]:
    """(source, whether vocabularies must be aligned)."""
    first = plan.first
    wanted = plan.document.tokenizer
    if wanted is None:
        return first, False
    if isinstance(wanted, ModelRef):
        name = plan.models.name(wanted)
    elif wanted == "union":
        name = UNION
    else:
        name = first
    folders = {n: plan.full(n) for n in sorted(checkpoints)}
    reference = folders[first if name == UNION else name]
    if plan.document.tokens or plan.document.multiple:
        return name, True
    if all(same_vocabulary(reference, folder) for folder in folders.values()):
        stops = {tuple(stop_ids(f.path, text_config(f.config))) for f in folders.values()}
        if name == UNION and len(stops) > 1 and token_ids(reference.path):
            return UNION, True  # the tokens are the same; a union stops where any of them does
        return (first if name == UNION else name), False
    return name, True


def _tokens(plan: SlicePlan, checkpoints: set[str]) -> dict[str, TokenRow]:
    """Where the rows of single tokens come from."""
    found = {}
    for text, entry in plan.document.tokens.items():
        name = "" if entry.model is None else plan.models.name(entry.model)
        if name and name not in checkpoints:
            wrong = "the row of a token must come from a model that is merged"
            raise plan.document.error("E137", entry.where, wrong, name)
        found[text] = TokenRow(name, entry.token, entry.force)
    return found


def _unmatched(plan: SlicePlan) -> list[str]:
    """Filters that no tensor has met."""
    found = []
    for settings in _all_settings(plan.document):
        for name, setting in settings.items():
            for text, _ in setting.rules:
                if text is not None and (setting.line, text) not in plan.used:
                    found.append(f"line {setting.line}: no tensor matches filter {text!r} of {name}")
    return found


def _all_settings(document: Document) -> list[Mapping[str, Setting]]:
    found = [document.settings]
    for entry in document.slices:
        found += [entry.settings, *(source.settings for source in entry.sources)]
    return found


def _promoted(folders: Iterable[Folder]) -> str:
    """The dtype that holds every input's exactly."""
    kinds = {
        header.dtype
        for folder in folders
        if isinstance(folder, CheckpointFolder)
        for header in folder.tensors.values()
        if header.is_float
    }
    if len(kinds) == 1 and kinds <= set(DTYPES):
        return kinds.pop()
    if not kinds <= set(DTYPES):
        raise ConfigError(
            Problem("E132", "these models have no dtype that merges can be stored in",
                    f"found {', '.join(sorted(kinds))}", "state `out_dtype`")
        )  # fmt: skip
    return "float32"
