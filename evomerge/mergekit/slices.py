"""The slices of a mergekit file as the layers of a recipe, and the merged sources these take.

Rules of mergekit that are kept: a parameter of a source goes before that of its slice and that before the
file's; filters are substrings of the checkpoint's tensor names, the first match holds; a gradient runs over
the layers of a slice, and a slice of one layer takes its end; embeddings take the first slice's parameters,
final norm and head those of the last, all at the start of their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.compare import other_architecture, tied_in_one
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.layout import place_of
from evomerge.checkpoint.model_form import with_heads
from evomerge.errors import CheckpointError
from evomerge.mergekit.document import Document, ModelRef, SliceEntry, SourceEntry
from evomerge.mergekit.models import Models
from evomerge.mergekit.values import SliceValues
from evomerge.mergekit.virtual import VirtualSource
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.recipe import MERGED, LayerStep


class SlicePlan:
    """Collects merged sources and the path, slice by slice.

    Attributes:
        virtual: the merged sources so far.
        path: the layers of the result so far, bottom first.
        outer: where embeddings, final norm and head come from.
        used: line and text of each filter that some tensor has met.
        untied: whether the models were given heads of their own.
    """

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
        ) or any(isinstance(f, AdapterFolder) and f.own_head for f in self.models.folders.values())
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
