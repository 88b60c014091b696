"""A recipe with its sources opened, checked against their digests and planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.aligned import align_sources
from evomerge.checkpoint.architecture import unknown_architecture
from evomerge.checkpoint.by_peft import merge_note
from evomerge.checkpoint.compare import MERGED_ANYWAY, compare_with_base
from evomerge.checkpoint.digest import content_digest
from evomerge.checkpoint.folder import CheckpointFolder, is_adapter, open_folder
from evomerge.checkpoint.model_form import with_head_of, with_heads, with_positions
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import AdapterReader, Reader, open_readers
from evomerge.checkpoint.renumbered import AdaptedReader
from evomerge.checkpoint.text_tower import with_text_towers
from evomerge.checkpoint.vocabulary import Vocabulary, vocabulary_config
from evomerge.checkpoint.writer import TensorSpec
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    EvomergeError,
    Problem,
)
from evomerge.merge.mixture.planned import PlannedMixture, mixture_on
from evomerge.merge.mixture.routers import Routers
from evomerge.merge.peft_adapters import merge_adapters
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.skeleton import model_class
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import EACH, UNION, CheckpointSource, MergedSource, Recipe
from evomerge.recipe.registered import own_methods

Folder = CheckpointFolder | AdapterFolder


@dataclass(frozen=True)
class OpenedMerge:
    """A merge that is ready to be streamed.

    Attributes:
        recipe: with the digest of every source.
        stated: opened checkpoint sources by name.
        folders: the same, with every adapter that PEFT merged as the full model it became.
        plan: what each output tensor is made of.
        readers: by source name.
        hubs: hub name of each source that came from the hub's cache.
        notes: what a person should know of the sources, one line each.
        vocabulary: of the result, where vocabularies were brought into one.
        heads: the models whose heads stay beside the merge, by name.
        mixture: what is written where the recipe makes experts of the merge's MLPs; None for the merge.
    """

    recipe: Recipe
    stated: Mapping[str, Folder]
    folders: Mapping[str, Folder]
    plan: MergePlan
    readers: Mapping[str, Reader]
    hubs: Mapping[str, str]
    notes: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    heads: Mapping[str, CheckpointFolder] = field(default_factory=dict)
    mixture: PlannedMixture | None = None

    @property
    def template(self) -> CheckpointFolder:
        """The full model whose config and tokenizer the result takes (or extends)."""
        union = self.recipe.align and self.recipe.tokenizer == UNION
        folder = self.folders[first_model(self.recipe) if union else self.recipe.tokenizer]
        return folder.base if isinstance(folder, AdapterFolder) else folder

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The tensors that are written."""
        if self.mixture is not None:
            return self.mixture.specs
        return tuple(TensorSpec(t.name, t.dtype, t.shape) for t in self.plan.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of the result's tensors."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders of all sources."""
        return tuple(folder.path for folder in self.stated.values())

    def label(self, name: str) -> str:
        """What a source is called outside: its hub name, or the name of its folder."""
        return self.hubs.get(name) or self.stated[name].path.resolve().name


def open_merge(
    recipe: Recipe, hubs: Mapping[str, str], cache: Path | None, adapters: Callable[[], Path]
) -> OpenedMerge:
    """Open and plan a recipe; every source must have the digest the recipe states.

    Args:
        recipe: with paths that exist; an empty digest is filled in.
        hubs: hub name of each source that came from the hub's cache.
        cache: where statistics of the weights are kept; None for memory only.
        adapters: gives the folder where adapters are kept that PEFT merges; asked only if there are such.

    Raises:
        CheckpointError: E239, another digest than the recipe states; others as in opening and planning.
        EnvironmentFault: as `merge_adapters`.
        ConfigError: faults of the recipe that show with its sources; E142, it is an ensemble.
    """
    if recipe.ensemble:
        wrong = "an ensemble is no checkpoint: its models answer together, and are not merged"
        raise ConfigError(Problem("E142", wrong, "", "leave it out", field="ensemble"))
    stated = folders = _open_sources(recipe)
    digests = {name: content_digest(folder) for name, folder in folders.items()}
    problems = [
        Problem(
            "E239",
            f"the weights of `{name}` are not those the recipe means",
            f"their SHA-256 is {digests[name][:16]}, recorded was {source.digest[:16]}",
            "restore them",
            str(folders[name].path),
        )
        for name, source in recipe.checkpoints.items()
        if source.digest and source.digest != digests[name]
    ]
    if problems:
        raise CheckpointError(problems)
    recipe = replace(
        recipe,
        sources={
            name: replace(source, digest=digests[name])
            if isinstance(source, CheckpointSource)
            else _with_function(source)
            for name, source in recipe.sources.items()
        },
    )
    folders, merged = merge_adapters(folders, digests.__getitem__, adapters)
    digests |= merged
    own = folders
    if recipe.towers:
        folders = with_text_towers(folders)
    if recipe.untied:
        stated, folders = with_heads(stated), with_heads(folders)
    if recipe.head_owner:
        folders = with_head_of(folders, recipe.head_owner)
        cache = None  # as below
    readers: dict[str, Reader] = open_readers(folders)
    vocabulary = None
    if recipe.align:
        target = None if recipe.tokenizer == UNION else recipe.tokenizer
        folders, readers, alignment = align_sources(
            folders,
            readers,
            first_model(recipe),
            target,
            recipe.tokens,
            recipe.pad_to_multiple_of,
        )
        vocabulary = alignment.vocabulary
        # Statistics of aligned rows are not those of the files alone.
        cache = None
    merging = dict(folders)
    for name, reader in readers.items():
        if isinstance(reader, AdapterReader) and _stands_alone(recipe, name, folders):
            readers[name] = AdaptedReader(name, reader)
            merging[name] = readers[name].folder
            digests[name] += f" on {digests[reader.folder.base.name]}"
    warnings = _check_together(recipe, merging)
    first = folders[first_model(recipe)]
    full = first.base if isinstance(first, AdapterFolder) else first
    if unknown := unknown_architecture(full):
        raise CheckpointError(unknown)
    model_class(full)
    if recipe.rope:
        folders, merging = (with_positions(each, recipe.rope) for each in (folders, merging))
    statistics = WeightStatistics(merging, cache, digests, readers)
    try:
        plan = make_plan(recipe, merging, statistics)
    except CandidateError as error:
        raise ConfigError(Problem("E111", "these coefficients have no result", str(error))) from error
    seen = (*stated.values(), *folders.values())
    noted = [*dict.fromkeys(warning for folder in seen for warning in folder.warnings), *warnings]
    noted += [
        merge_note(folder)
        for folder in stated.values()
        if isinstance(folder, AdapterFolder) and not folder.factored
    ]
    notes = tuple(problem.words for problem in noted)
    heads = {
        name: folder
        for name, folder in own.items()
        if recipe.heads == EACH and isinstance(folder, CheckpointFolder)
    }
    mixture = None
    if recipe.mixture is not None:
        mixture = mixture_on(recipe, plan, full, Routers(full, readers), readers)
    merge = OpenedMerge(
        recipe, stated, folders, plan, readers, dict(hubs), notes, vocabulary, heads, mixture
    )
    if vocabulary is None:
        return merge
    config = {**vocabulary_config(merge.template, vocabulary.rows), **plan.config}
    return replace(merge, plan=replace(plan, config=config))


def _with_function(source: MergedSource) -> MergedSource:
    """The same, with the digest of a registered method's function where none is stated."""
    own = own_methods().get(source.method)
    return source if own is None or source.function else replace(source, function=own.method.function)


def nonfinite_sources(merge: OpenedMerge, tensor: str) -> list[Problem]:
    """E232 for each source whose part in an output tensor has NaN or infinite elements."""
    problems = []
    for entry in (each for each in merge.plan.tensors if each.name == tensor):
        parts = [(each.source, each.tensor) for each in entry.inputs]
        for source, own in dict.fromkeys([*([entry.base] if entry.base is not None else []), *parts]):
            reader, folder = merge.readers[source], merge.folders[source]
            factors = reader.delta(own)
            read = factors if factors is not None else (reader.read(own),)
            count = sum(int((~part.isfinite()).sum()) for part in read)
            if count:
                wrong = f"{source} has NaN or infinite weights"
                todo = "leave it out, or give sound weights"
                found = f"{count} elements"
                problems.append(Problem("E232", wrong, found, todo, str(folder.path), field=own))
    return problems


def first_model(recipe: Recipe) -> str:
    """The model whose rows go before others' where vocabularies differ: the base, if there is one."""
    return "base" if "base" in recipe.checkpoints else next(iter(recipe.checkpoints))


def _check_together(recipe: Recipe, folders: Mapping[str, Folder]) -> tuple[Problem, ...]:
    """See that what goes into one merge fits together; gives what is merged anyway.

    Raises:
        CheckpointError: everything else that `compare_with_base` finds.
    """
    problems: dict[Problem, None] = {}
    warnings: dict[Problem, None] = {}
    together = [
        [*([source.base] if source.base is not None else []), *source.inputs]
        for source in recipe.sources.values()
        if isinstance(source, MergedSource)
    ]
    if recipe.mixture is not None:
        together.append([first_model(recipe), *recipe.mixture.experts])
    for first, *rest in together:
        base = folders[first]
        if isinstance(base, AdapterFolder):
            base = base.base
        for problem in compare_with_base(base, [folders[name] for name in rest]):
            aligned = recipe.align and problem.code in ("E226", "E227")
            if problem.code == "E245" and _allows_rope(recipe, folders, first, problem):
                taken = f"allowed: the merge takes those of {recipe.rope or first}"
                warnings[replace(problem, todo=taken)] = None
            elif not aligned and problem.code != "E228":  # what was taken is told when it is known
                (warnings if problem.code in MERGED_ANYWAY else problems)[problem] = None
    if problems:
        raise CheckpointError(problems)
    return tuple(warnings)


def _allows_rope(recipe: Recipe, folders: Mapping[str, Folder], base: str, problem: Problem) -> bool:
    """Whether a source may have other rotary positions: it must be clear whose the result has."""
    allowed = {str(folders[n].path) for n, s in recipe.checkpoints.items() if "rope" in s.allow}
    return problem.file in allowed and (bool(recipe.rope) or recipe.tokenizer in (base, UNION))


def _stands_alone(recipe: Recipe, name: str, folders: Mapping[str, Folder]) -> bool:
    """Whether an adapter is part of a merge as a full model, and not by its factors alone.

    Its task vector is that of its factors only against the model it is read against, layer by layer.
    """
    folder = folders[name]
    assert isinstance(folder, AdapterFolder)
    return any(
        (source.base not in (None, folder.base.name)) or name in source.shifts
        for source in recipe.sources.values()
        if isinstance(source, MergedSource) and name in source.inputs
    )


def _open_sources(recipe: Recipe) -> dict[str, Folder]:
    """Full models first, then the adapters, each against the base of the merge it is part of."""
    base_of: dict[str, str] = {}
    for source in recipe.sources.values():
        if isinstance(source, MergedSource) and source.base is not None:
            base_of |= dict.fromkeys(source.inputs, source.base)
    base_of |= {name: source.on for name, source in recipe.checkpoints.items() if source.on}
    folders: dict[str, Folder] = {}
    problems: list[Problem] = []

    def adapts(name: str, path: str) -> bool:
        return base_of.get(name, "base") != name and is_adapter(Path(path))

    checkpoints = recipe.checkpoints
    for name, source in checkpoints.items():
        if not adapts(name, source.path):
            try:
                folders[name] = open_folder(source.path, name)
            except EvomergeError as error:
                problems += error.problems
    for name, source in checkpoints.items():
        if adapts(name, source.path):
            base = folders.get(base_of.get(name, "base"))
            try:
                opened = base if isinstance(base, CheckpointFolder) else None
                folders[name] = open_source(source.path, name, opened)
            except EvomergeError as error:
                problems += error.problems
    if problems:
        raise CheckpointError(problems)
    return {name: folders[name] for name in checkpoints}
