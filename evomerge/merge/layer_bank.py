"""The layers of a live model: which resident one holds what, and the list by which a path refers to them.

A path is a list of references. A layer that stands in it twice is in memory once, and each place has a module
of its own around the same parameters, whose number is the place: keys and values are cached by that number.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from evomerge.checkpoint.folder import layer_lists
from evomerge.errors import CheckpointError, Problem


class LayerBank:
    """The resident layers of a model, `room` of them.

    Attributes:
        name: of the model's list of layers.
        room: how many there are.
    """

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        self.name = name
        self._model = model
        self._layers = list(model.get_submodule(name).children())
        self.room = len(self._layers)
        self._lists = layer_lists(model.config.get_text_config().to_dict(), self.room)
        self._held: dict[int, Hashable] = {}
        self._used = dict.fromkeys(range(self.room), 0)
        self._turn = 0
        self._modules: dict[tuple[int, int], torch.nn.Module] = {}
        self._shown = list(range(self.room))

    @property
    def modules(self) -> list[torch.nn.Module]:
        """The modules of the path that is shown, in order."""
        return list(self._model.get_submodule(self.name).children())

    def forget(self) -> None:
        """Take no layer to hold anything known, so that the next plan writes all of them."""
        self._held.clear()

    def in_order(self, count: int) -> list[int]:
        """The first `count` residents, for a merge that is no path; what they hold is not noted."""
        self._held.clear()
        if count > self.room:
            raise self._refused(f"{count} layers")
        return list(range(count))

    def assign(self, contents: Sequence[Hashable], origins: Sequence[int]) -> list[int]:
        """The resident for each place of a path.

        One that holds the content already is taken; else one of the same kind (sliding attention, say) that
        was used least lately, its own number first. Equal contents share one.

        Args:
            contents: what each place needs.
            origins: number of the layer in its source, which tells its kind.

        Raises:
            CheckpointError: E234, they do not suffice.
        """
        self._turn += 1
        wanted = dict(zip(contents, origins, strict=True))
        found = {content: place for place, content in self._held.items() if content in wanted}
        free = set(range(self.room)) - set(found.values())
        for content, origin in wanted.items():
            if content in found:
                continue
            fitting = [place for place in free if self._kind(place) == self._kind(origin)]
            if not fitting:
                raise self._refused(f"{len(wanted)} different layers")
            chosen = min(fitting, key=lambda place: (self._used[place], place != origin, place))
            free.discard(chosen)
            found[content] = chosen
        # What is about to be written over is noted once it is whole.
        for content, place in found.items():
            if self._held.get(place) != content:
                self._held.pop(place, None)
            self._used[place] = self._turn
        return [found[content] for content in contents]

    def hold(self, contents: Sequence[Hashable], places: Sequence[int]) -> None:
        """Note what was written."""
        self._held.update(zip(places, contents, strict=True))

    def show(self, places: Sequence[int]) -> None:
        """Let the model's list of layers and its config be those of a path of residents."""
        if list(places) == self._shown:
            return
        owner, _, attribute = self.name.rpartition(".")
        chosen = [self._at(place, number) for number, place in enumerate(places)]
        setattr(self._model.get_submodule(owner), attribute, torch.nn.ModuleList(chosen))
        part: Any = self._model.config.get_text_config()
        part.num_hidden_layers = len(places)
        for key, kinds in self._lists.items():
            setattr(part, key, [kinds[place] for place in places])
        self._shown = list(places)

    def _at(self, place: int, number: int) -> torch.nn.Module:
        """The module of a resident at a place of a path."""
        if place == number:
            return self._layers[place]
        if (place, number) not in self._modules:
            layer = self._layers[place]
            shared = {id(tensor): tensor for tensor in (*layer.parameters(), *layer.buffers())}
            twin = copy.deepcopy(layer, shared)
            numbered: Any
            for numbered in twin.modules():
                if hasattr(numbered, "layer_idx"):
                    numbered.layer_idx = number
            self._modules[place, number] = twin
        return self._modules[place, number]

    def _kind(self, place: int) -> tuple[Any, ...]:
        return tuple(kinds[place] for kinds in self._lists.values())

    def _refused(self, found: str) -> CheckpointError:
        todo = "export the recipe and score the checkpoint"
        wrong = "the live model cannot take this path of layers"
        if self._lists:
            found += f" of kinds by {', '.join(self._lists)}"
        return CheckpointError(Problem("E234", wrong, f"{found}, room for {self.room}", todo))
