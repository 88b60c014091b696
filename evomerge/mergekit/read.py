"""A mergekit YAML to a `Recipe` with mergekit's semantics.

Rules of mergekit that are kept: a parameter of a source goes before that of its slice and that before the
file's; filters are substrings of the checkpoint's tensor names, the first match holds; a gradient runs over
the layers of a slice, and a slice of one layer takes its end; embeddings take the first slice's parameters,
final norm and head those of the last, all at the start of their gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.compare import other_architecture, tied_in_one
from evomerge.checkpoint.folder import CheckpointFolder, text_config
from evomerge.checkpoint.habits import stop_ids
from evomerge.checkpoint.layout import place_of
from evomerge.checkpoint.model_form import with_heads
from evomerge.checkpoint.rope import same_rope
from evomerge.checkpoint.vocabulary import same_vocabulary, token_ids
from evomerge.errors import CheckpointError, ConfigError, Problem
from evomerge.mergekit.chat import chat_template_text
from evomerge.mergekit.document import Document, ModelRef, SliceEntry, SourceEntry
from evomerge.mergekit.form import read_document
from evomerge.mergekit.models import Folder, Models
from evomerge.mergekit.settings import Setting
from evomerge.mergekit.values import SliceValues
from evomerge.mergekit.virtual import VirtualSource, stated_tables
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import (
    DTYPES,
    MERGED,
    UNION,
    UNTIE,
    CheckpointSource,
    LayerStep,
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
    maker = _Maker(document, models)
    for entry in document.slices:
        maker.open(entry)
    maker.untie()
    for entry in document.slices:
        maker.add(entry)
    return maker.finish()


class _Maker:
    """Collects sources and the path, slice by slice."""

    def __init__(self, document: Document, models: Models) -> None:
        self.document = document
        self.models = models
        self.method = document.method
        self.virtual: list[VirtualSource] = []
        self.path: list[LayerStep] = []
        self.outer: dict[str, str] = {}
        self.used: set[tuple[int, str]] = set()
        self.untied = False

    def open(self, entry: SliceEntry) -> None:
        """Open the models of a slice."""
        for model in (*(source.model for source in entry.sources), entry.base):
            if model is not None:
                self.models.name(model)

    def untie(self) -> None:
        """Give every model a head of its own where only some have; mergekit reads a tied head so."""
        folders = {name: self.full(name) for name in self.models.folders}
        first = folders[self.first]
        self.untied = any(
            not other_architecture(first, each) and tied_in_one(first, each)
            for each in folders.values()
        )
        if self.untied:
            self.models.folders = with_heads(self.models.folders)
            note = "embedding and head are tied in some of the models: the result has a head of its own"
            self.models.notes.append(note)

    def add(self, entry: SliceEntry) -> None:
        """Plan the layers of a slice, and embeddings with the first one."""
        document = self.document
        sources = self.with_base(entry)
        names = [self.models.name(source.model) for source in sources]
        base_ref = entry.base or document.base
        base = self.models.name(base_ref) if base_ref is not None else None
        inputs = self.inputs(names, base, entry)
        spans = {}
        for name, source in zip(names, sources, strict=True):
            count = self.full(name).layers
            first, last = spans[name] = source.layers or (0, self.full(names[0]).layers)
            if last > count or (source.layers is None and count != last):
                self.see_that_all_are_alike()
                wrong = f"{source.model.path} has {count} layers"
                raise document.error("E119", source.where, wrong, f"{first} to {last}")
        # The layers of a merged source have the numbers of its base, else of its first input.
        reference = base if base is not None and self.method.base != "input" else inputs[0]
        main = self.full(reference)
        # A base that is in no slice, which mergekit refuses, goes with the first source.
        first, last = spans.get(reference, spans[names[0]])
        shifts = {name: spans[name][0] - first for name in inputs if spans[name][0] != first}
        for index, layer in enumerate(range(first, last)):
            t = index / (last - first - 1) if last - first > 1 else 1.0
            rests = [
                (f"layers.{layer}.{place.split('.')[2]}", rest)
                for place, rest in self.rests(main, layer)
            ]
            values = SliceValues(document, self.models, entry, sources, names, self.used, t)
            output = len(self.path)
            tensors = [
                (
                    place, rest, main.names.join(output, rest),
                    {n: main.names.join(layer + shifts.get(n, 0), rest) for n in inputs},
                )
                for place, rest in rests
            ]  # fmt: skip
            name = self.place(values, inputs, base, shifts, tensors, layer)
            own = layer + shifts.get(name, 0)  # a model as it stands goes by its own number
            self.path.append(LayerStep(name, own))
        values = SliceValues(document, self.models, entry, sources, names, self.used, 0.0)
        tensors = [(p, t, t, dict.fromkeys(inputs, t)) for p, t in self.outer_tensors(main)]
        # Embeddings as the first slice says, the others as the last one does.
        if entry is document.slices[0]:
            embed = [t for t in tensors if t[0] == "embed"]
            self.outer["embed"] = self.place(values, inputs, base, shifts, embed, None)
        if entry is document.slices[-1]:
            for place in ("final_norm", "head"):
                found = [t for t in tensors if t[0] == place]
                if found:
                    self.outer[place] = self.place(values, inputs, base, shifts, found, None)

    @property
    def first(self) -> str:
        """The model whose files and rows go before others': the base, if there is one."""
        return "base" if "base" in self.models.folders else next(iter(self.models.folders))

    def see_that_all_are_alike(self) -> None:
        """Models of other kinds are blamed for that, and not one of them for its layers.

        Raises:
            CheckpointError: E225.
        """
        first = self.full(next(iter(self.models.folders)))
        kinds = [self.full(name) for name in self.models.folders]
        problems = [problem for kind in kinds for problem in other_architecture(first, kind)]
        if problems:
            raise CheckpointError(problems)

    def with_base(self, entry: SliceEntry) -> list[SourceEntry]:
        """The sources of a slice; whole models are joined by the base, as in mergekit."""
        sources = list(entry.sources)
        base = self.document.base
        if self.document.whole and base is not None and all(s.model != base for s in sources):
            sources.append(SourceEntry(base, None, {}, ("base_model",)))
        seen: set[ModelRef] = set()
        for source in sources:
            if source.model in seen:
                wrong = "a model that is listed twice in one slice is not supported"
                raise self.document.error("E137", source.where, wrong, source.model.path)
            seen.add(source.model)
        return sources

    def inputs(self, names: Sequence[str], base: str | None, entry: SliceEntry) -> tuple[str, ...]:
        """What our method takes: for methods on task vectors, all but the base."""
        if self.method.name == "slerp":
            others = [name for name in names if name != base]
            if base is None or len(others) != 1:
                wrong = "slerp takes exactly two models, one of them the base_model"
                raise self.document.error("E118", entry.where, wrong, len(others) + 1)
            return (base, others[0])
        if self.method.name == "passthrough" and len(names) != 1:
            wrong = "passthrough takes one model a slice"
            raise self.document.error("E118", entry.where, wrong, len(names))
        if self.method.base == "input":
            return tuple(names)
        experts = tuple(name for name in names if name != base)
        if METHODS[self.method.ours].inputs == (1, 1) and len(experts) > 1:
            wrong = f"{self.method.name} takes exactly one model besides the base_model"
            raise self.document.error("E118", entry.where, wrong, len(experts))
        return experts

    def place(
        self,
        values: SliceValues,
        inputs: tuple[str, ...],
        base: str | None,
        shifts: Mapping[str, int],
        tensors: Sequence[tuple[str, str, str, Mapping[str, str]]],
        layer: int | None,
    ) -> str:
        """Put tensors' coefficients into a merged source that has room; gives its name.

        A tensor is (place, name inside it, name in the result, name in each input).
        """
        if not inputs and base is not None:
            return base
        found = values.of(tensors, inputs)
        if self.method.name == "passthrough" and all(
            value == 1.0
            for table in found.values()
            for each in table.values()
            for value in each.values()
        ):
            return inputs[0]
        for source in self.virtual:
            if (source.base, source.inputs, source.flags, source.shifts) != (
                base if self.method.base != "input" else None, inputs, values.flags, shifts,
            ):  # fmt: skip
                continue
            if layer is None or layer not in source.layers or source.agrees(found):
                break
        else:
            number = len(self.virtual) + 1
            source = VirtualSource(
                name=MERGED if number == 1 else f"{MERGED}{number}",
                base=base if self.method.base != "input" else None,
                inputs=inputs,
                flags=dict(values.flags),
                shifts=dict(shifts),
            )
            self.virtual.append(source)
        if layer is not None:
            source.layers.add(layer)
        source.take(found)
        return source.name

    def full(self, name: str) -> CheckpointFolder:
        """The full model behind a name."""
        folder = self.models.folders[name]
        return folder.base if isinstance(folder, AdapterFolder) else folder

    def rests(self, folder: CheckpointFolder, layer: int) -> list[tuple[str, str]]:
        """(place, name inside the layer) of a layer's float tensors."""
        found = []
        for tensor, header in folder.tensors.items():
            split = folder.names.split(tensor)
            if split is not None and split[0] == layer and header.is_float:
                found.append((place_of(tensor, folder.names, header), split[1]))
        return found

    def outer_tensors(self, folder: CheckpointFolder) -> list[tuple[str, str]]:
        """(place, name) of each tensor outside the layers."""
        return [
            (place_of(tensor, folder.names, header), tensor)
            for tensor, header in folder.tensors.items()
            if folder.names.split(tensor) is None
        ]

    def finish(self) -> MergekitMerge:
        """The recipe, once every slice is in."""
        document, models = self.document, self.models
        template = chat_template_text(document, models)
        notes = [*document.notes, *models.notes, *self.unmatched()]
        merged = {source.name: self.merged(source) for source in self.virtual}
        checkpoints = self.checkpoints(merged.values())
        tokenizer, align = self.tokenizer(checkpoints)
        dtype = document.out_dtype or document.dtype or _promoted(models.folders.values())
        if document.dtype != "float32":
            notes.append(
                f"mergekit would compute in {document.dtype or dtype}; here in float32, rounded once"
            )
        if self.method.ours in ("dare_linear", "dare_ties", "della", "della_linear"):
            notes.append("random masks are ours: the same recipe gives the same masks anywhere")
        if document.tokenizer is not None and not align:
            notes.append("the vocabularies are the same: nothing to align, padding rows stay")
        # mergekit merges models whose rotary positions differ, and takes the config of the base.
        named = tokenizer if tokenizer in models.folders else self.first
        first = text_config(self.full(named).config)
        others = {n for n in checkpoints if not same_rope(first, text_config(self.full(n).config))}
        sources: dict[str, Source] = {
            name: CheckpointSource(
                path, on=self.read_against(name), allow=("rope",) if name in others else ()
            )
            for name, path in models.paths.items()
            if name in checkpoints
        }
        recipe = Recipe(
            sources=sources | merged,
            path=tuple(self.path),
            outer=self.outer,
            dtype=dtype,
            tokenizer=tokenizer,
            align=align,
            chat_template=template,
            tokens=self.tokens(checkpoints),
            heads=UNTIE if self.untied else "",
        )
        hubs = {name: hub for name, hub in models.hubs.items() if name in checkpoints}
        return MergekitMerge(recipe, hubs, tuple(dict.fromkeys(notes)))

    def merged(self, source: VirtualSource) -> MergedSource:
        """The finished form of a merged source."""
        options = self.method.options(source.flags, source.base is not None)
        if self.method.name == "passthrough":
            options = {"normalise": "no"}
        coefficients = stated_tables(METHODS[self.method.ours], source.leaves)
        if self.method.name == "ram":
            coefficients["r"] = {"*": {"": 0.0}}
        return MergedSource(
            method=self.method.ours,
            inputs=source.inputs,
            base=source.base,
            coefficients=coefficients,
            options=options,
            shifts=source.shifts,
        )

    def read_against(self, name: str) -> str:
        """The model that an adapter is read against, where a recipe must say it."""
        folder = self.models.folders[name]
        plain = all(source.base in (None, "base") for source in self.virtual)
        if not isinstance(folder, AdapterFolder) or (plain and folder.base.name == "base"):
            return ""
        return folder.base.name

    def checkpoints(self, merged: Iterable[MergedSource]) -> set[str]:
        """The names a recipe must have: those in use, and the full models of adapters."""
        used = {step.source for step in self.path} | set(self.outer.values())
        for source in merged:
            used |= {*source.inputs, *([source.base] if source.base is not None else [])}
        for name in list(used):
            folder = self.models.folders.get(name)
            if isinstance(folder, AdapterFolder):
                used.add(folder.base.name)
        template = self.document.tokenizer
        used.add(self.first)
        if isinstance(template, ModelRef):
            used.add(self.models.name(template))
        return used & set(self.models.folders)

    def tokenizer(self, checkpoints: set[str]) -> tuple[str, bool]:
        """(source, whether vocabularies must be aligned)."""
        first = self.first
        wanted = self.document.tokenizer
        if wanted is None:
            return first, False
        if isinstance(wanted, ModelRef):
            name = self.models.name(wanted)
        else:
            name = UNION if wanted == "union" else first
        folders = {n: self.full(n) for n in sorted(checkpoints)}
        reference = folders[first if name == UNION else name]
        if self.document.tokens:
            return name, True
        if all(same_vocabulary(reference, folder) for folder in folders.values()):
            stops = {tuple(stop_ids(f.path, text_config(f.config))) for f in folders.values()}
            if name == UNION and len(stops) > 1 and token_ids(reference.path):
                return UNION, True  # the tokens are the same; a union stops where any of them does
            return (first if name == UNION else name), False
        return name, True

    def tokens(self, checkpoints: set[str]) -> dict[str, TokenRow]:
        """Where the rows of single tokens come from."""
        found = {}
        for text, entry in self.document.tokens.items():
            name = "" if entry.model is None else self.models.name(entry.model)
            if name and name not in checkpoints:
                wrong = "the row of a token must come from a model that is merged"
                raise self.document.error("E137", entry.where, wrong, name)
            found[text] = TokenRow(name, entry.token, entry.force)
        return found

    def unmatched(self) -> list[str]:
        """Filters that no tensor has met."""
        found = []
        for settings in _all_settings(self.document):
            for name, setting in settings.items():
                for text, _ in setting.rules:
                    if text is not None and (setting.line, text) not in self.used:
                        found.append(
                            f"line {setting.line}: no tensor matches filter {text!r} of {name}"
                        )
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
