"""Carry out a merge plan: into a live model for evaluation, or into a folder for publishing.

Both go through `passes.execute`, tensor by tensor, so the exported checkpoint holds the bits that were
scored. A live model keeps what the last plan wrote; tensors whose entry is the same are left alone.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch
from transformers import PreTrainedModel

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.layout import layer_names
from evomerge.checkpoint.reader import Reader
from evomerge.checkpoint.writer import CheckpointWriter, TensorSpec
from evomerge.errors import CandidateError, CheckpointError, Problem
from evomerge.merge.binding import Binding, bind
from evomerge.merge.device_map import connect, make_device_map
from evomerge.merge.distance import tensor_distance
from evomerge.merge.layer_bank import LayerBank
from evomerge.merge.passes.blocks import Ranks, Scratch
from evomerge.merge.passes.compiled import Kernels
from evomerge.merge.passes.execute import execute, prefetch
from evomerge.merge.passes.placement import Placement
from evomerge.merge.plan import MergePlan, TensorPlan
from evomerge.merge.skeleton import allocate, build_skeleton


@dataclass(frozen=True)
class PlanStatistics:
    """What carrying out a plan did.

    Attributes:
        tensors: tensors of the plan; `tensors_written` of them were computed, the others were resident.
        bytes: bytes written.
        seconds: wall time.
        l1: sum of |merged - base| over all parameters, as stored; None if it was not asked for.
        l2: root of the sum of squares of the same.
    """

    tensors: int
    tensors_written: int
    bytes: int
    seconds: float
    l1: float | None = None
    l2: float | None = None


class LiveModel:
    """A resident model whose parameters are rewritten for each candidate.

    It has room for a number of layers. A layer that already holds what a plan wants is not written again, at
    whatever place of the path it stands (`LayerBank`). The model object stays the same; its list of layers
    and its config follow the plan.

    Attributes:
        model: the transformers model, in eval mode, without gradients.
        folder: the base checkpoint, whose architecture and names it has.
        dtype: the evaluation dtype.
        bindings: checkpoint tensor to where it lives.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        folder: CheckpointFolder,
        dtype: torch.dtype,
        bindings: list[Binding],
        buffers: Mapping[str, torch.Tensor],
        kernels: Kernels | None = None,
        ranks: Ranks | None = None,
        placement: Placement = "mapped",
    ) -> None:
        self.model = model
        self.folder = folder
        self.dtype = dtype
        self.bindings = bindings
        self.buffers = buffers
        self._kernels, self._ranks, self._placement = kernels, ranks, placement
        self._scratches: dict[torch.device, Scratch] = {}
        state = model.state_dict(keep_vars=True)
        self._slots = {b.tensor: b.view(state[b.parameter].detach()) for b in bindings}
        self._resident: dict[str, TensorPlan] = {}
        self._distances: dict[str, tuple[float, float]] = {}
        self._readers: dict[str, Reader] = {}
        names = layer_names((name for name, _ in model.named_parameters()), folder.names.decoder)
        self._lists = [tower.prefix for tower in names.towers]
        # Only a decoder's layers are ever moved.
        self._bank = LayerBank(model, names.prefix) if names.decoder else None

    @staticmethod
    def load(
        base: CheckpointFolder,
        dtype: torch.dtype | str = "bfloat16",
        device: str = "cpu",
        max_layers: int | None = None,
        kernels: Kernels | None = None,
        ranks: Ranks | None = None,
        placement: Placement = "mapped",
        spread: Sequence[str] = (),
    ) -> LiveModel:
        """Build the body of a base model and bind its checkpoint; weights come with the first plan.

        Args:
            base: the opened base; only its config and headers are read.
            dtype: evaluation dtype.
            device: where the model lives.
            max_layers: for how many layers there is room; those of the base at least.
            kernels: compiled passes for this device; the plain path without.
            ranks: prepared ranks for DELLA (`WeightStatistics.ranks`); it sorts in the pass without.
            placement: where experts lie for another device than the CPU.
            spread: devices over which the layers lie, in place of `device`; a pass runs where the tensor it
                writes lies.

        Raises:
            CheckpointError: E203 or E235 from building, E219 to E223 and E234 from binding.
        """
        kind: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        room = max(max_layers or 0, base.layers)
        model = build_skeleton(base, kind, room if room > base.layers else None)
        bindings = bind(model, with_layers(base, room))
        device_map = make_device_map(model, spread) if spread else {"": device}
        buffers = allocate(model, device_map, base.names.decoder)
        if spread:
            connect(model, device_map)
        return LiveModel(model, base, kind, bindings, buffers, kernels, ranks, placement)

    def scratch(self, device: torch.device) -> Scratch:
        """What passes on a device share."""
        if device not in self._scratches:
            kernels = None if self._kernels is None else self._kernels.on(device)
            self._scratches[device] = Scratch(device, kernels, self._ranks, self._placement)
        return self._scratches[device]

    @property
    def layers(self) -> list[torch.nn.Module]:
        """The modules of the layers that the last plan had."""
        return [m for name in self._lists for m in self.model.get_submodule(name).children()]

    @torch.no_grad()
    def materialize(
        self, plan: MergePlan, readers: Mapping[str, Reader], distance: bool = False
    ) -> PlanStatistics:
        """Write a plan's tensors into the model, every parameter from exactly one entry.

        Args:
            plan: from `make_plan`.
            readers: by source name; other reader objects than last time make everything stale.
            distance: whether to measure how far the result is from the base.

        Raises:
            CandidateError: `nonfinite_weights`; nothing in the model can be trusted then, and the next
                plan rewrites all of it.
            CheckpointError: E234 a path with more different layers than there is room for, of some kind; E220
                a parameter without entry.
        """
        started = time.perf_counter()
        if any(self._readers.get(name) is not reader for name, reader in readers.items()):
            self._forget()
            for scratch in self._scratches.values():
                scratch.weights.forget()
            self._readers = dict(readers)
        contents = self._contents(plan)
        places = self._shown(plan, contents)
        entries: dict[str, TensorPlan] = {}
        origins: dict[str, str] = {}
        times: Counter[str] = Counter()
        for entry in plan.tensors:
            split = self.folder.names.split(entry.name)
            name = origin = entry.name
            if split is not None:
                name = self.folder.names.join(places[split[0]], split[1])
                origin = self.folder.names.join(plan.path[split[0]][1], split[1])
            entries[name], origins[name] = entry, origin
            times[name] += 1
        used = set(places)
        slots = {name: slot for name, slot in self._slots.items() if self._is_used(name, used)}
        missing = [name for name in slots if name not in entries]
        if missing:
            raise CheckpointError(
                Problem("E220", "the plan has no entry for this tensor", field=missing[0])
            )
        changed = [
            name
            for name in slots
            if not _alike(self._resident.get(name), entries[name])
            or (distance and name not in self._distances)
        ]
        written = bytes_written = 0
        for name, following in zip_longest(changed, changed[1:]):
            entry, slot = entries[name], slots[name]
            if following is not None:
                prefetch(entries[following], readers, self.scratch(slots[following].device))
            self._resident.pop(name, None)
            self._distances.pop(name, None)
            try:
                self._write(entry, slot, readers)
                if distance:
                    self._distances[name] = self._distance(origins[name], slot, readers)
            except BaseException:
                self._forget()
                raise
            self._resident[name] = entry
            written += 1
            bytes_written += slot.numel() * slot.element_size()
        if contents is not None and self._bank is not None:
            self._bank.hold(contents, places)
        for device in self._scratches:
            if device.type == "cuda":
                # Nobody may look at the clock, or at the files that are copied from, before this is through.
                torch.cuda.synchronize(device)
        l1 = l2 = None
        if distance:
            l1 = math.fsum(self._distances[name][0] * times[name] for name in slots)
            l2 = math.sqrt(math.fsum(self._distances[name][1] * times[name] for name in slots))
        seconds = time.perf_counter() - started
        return PlanStatistics(len(plan.tensors), written, bytes_written, seconds, l1, l2)

    def _shown(self, plan: MergePlan, contents: list[Hashable] | None) -> list[int]:
        """The resident of each layer of a plan; the model's lists of layers follow it."""
        if self._bank is None:
            return list(range(plan.layers))
        if contents is None:
            places = self._bank.in_order(plan.layers)
        else:
            places = self._bank.assign(contents, [layer for _, layer, _ in plan.path])
        self._bank.show(places)
        return places

    def _contents(self, plan: MergePlan) -> list[Hashable] | None:
        """What each layer of a path holds; None for layers in order, where there is room for no others."""
        order = [layer for _, layer, _ in plan.path]
        plain = order == list(range(plan.layers))
        if self._bank is None:
            if plain and plan.layers == self.folder.layers:
                return None
            wrong = "the live model of what is no decoder has its layers in order"
            raise CheckpointError(
                Problem("E234", wrong, "", "export the recipe and score the checkpoint")
            )
        if self._bank.room == self.folder.layers and plain:
            return None
        found: list[list[Hashable]] = [[] for _ in order]
        for entry in plan.tensors:
            split = self.folder.names.split(entry.name)
            if split is not None:
                found[split[0]].append((split[1], _content(entry)))
        return [tuple(layer) for layer in found]

    def _write(self, entry: TensorPlan, slot: torch.Tensor, readers: Mapping[str, Reader]) -> None:
        scratch = self.scratch(slot.device)
        if slot.is_contiguous():
            finite = execute(entry, readers, slot, scratch)
        else:
            whole = torch.empty(entry.shape, dtype=slot.dtype, device=slot.device)
            finite = execute(entry, readers, whole, scratch)
            slot.copy_(whole)
        if not finite:
            raise _not_finite(entry.name)

    def _forget(self) -> None:
        self._resident.clear()
        self._distances.clear()
        if self._bank is not None:
            self._bank.forget()

    def _base_name(self, readers: Mapping[str, Reader]) -> str:
        for name, reader in readers.items():
            if reader.folder is self.folder:
                return name
        raise ValueError("the distance to the base needs a reader of the base")

    def _distance(
        self, origin: str, slot: torch.Tensor, readers: Mapping[str, Reader]
    ) -> tuple[float, float]:
        reader, scratch = readers[self._base_name(readers)], self.scratch(slot.device)
        base = scratch.weights.read(reader, origin).view(reader.read(origin).shape)
        return tensor_distance(slot, base, scratch)

    def _is_used(self, name: str, places: Collection[int]) -> bool:
        split = self.folder.names.split(name)
        return split is None or split[0] in places


def _content(entry: TensorPlan) -> TensorPlan:
    """An entry without where it stands in the result."""
    return replace(entry, name="", place="")


def _alike(one: TensorPlan | None, other: TensorPlan) -> bool:
    """Whether two entries write the same bits."""
    return one is not None and (one == other or _content(one) == _content(other))


def _not_finite(tensor: str) -> CandidateError:
    return CandidateError("nonfinite_weights", f"{tensor} has NaN or infinite elements", tensor)


def with_layers(folder: CheckpointFolder, count: int) -> CheckpointFolder:
    """A folder as if it had `count` layers, the further ones like its own from the first on."""
    if count == folder.layers:
        return folder
    tensors = {n: h for n, h in folder.tensors.items() if folder.names.split(n) is None}
    for layer in range(count):
        for name, header in folder.tensors.items():
            split = folder.names.split(name)
            if split is not None and split[0] == layer % folder.layers:
                tensors[folder.names.join(layer, split[1])] = header
    return replace(folder, tensors=tensors, layers=count)


@torch.no_grad()
def write_checkpoint(
    plan: MergePlan,
    readers: Mapping[str, Reader],
    out_dir: Path,
    shard_bytes: int = 5_000_000_000,
    written: Callable[[str, torch.Tensor], None] | None = None,
    kernels: Kernels | None = None,
) -> PlanStatistics:
    """Stream a plan's tensors to safetensors files in an existing folder.

    Holds one tensor at a time. Files and folder are synced; giving the folder its final name is the
    caller's part.

    Args:
        plan: any path.
        readers: by source name.
        out_dir: existing folder.
        shard_bytes: most bytes of one file.
        written: called with each tensor's name and content once it is written.
        kernels: compiled passes for the CPU; the plain path without. The bits are the same.

    Raises:
        CandidateError: `nonfinite_weights`; the folder is then incomplete.
    """
    started = time.perf_counter()
    specs = [TensorSpec(entry.name, entry.dtype, entry.shape) for entry in plan.tensors]
    writer = CheckpointWriter(out_dir, specs, shard_bytes)
    scratch = Scratch(kernels=kernels)
    total = 0
    try:
        for entry in plan.tensors:
            out = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
            if not execute(entry, readers, out, scratch):
                raise _not_finite(entry.name)
            writer.write(entry.name, out)
            if written is not None:
                written(entry.name, out)
            total += out.numel() * out.element_size()
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    count = len(plan.tensors)
    return PlanStatistics(count, count, total, time.perf_counter() - started)
