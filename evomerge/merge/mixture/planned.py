"""A mixture ready to be written: its tensors, its config, and what it counts; written or live."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.reader import Reader
from evomerge.checkpoint.writer import CheckpointWriter, TensorSpec
from evomerge.errors import CandidateError, ConfigError, Problem
from evomerge.files.scratch import scratch_folder
from evomerge.merge.mixture.architectures import MixtureArchitecture, mixture_of
from evomerge.merge.mixture.routers import Routers
from evomerge.merge.mixture.tensors import MixtureTensor, mixture_tensors
from evomerge.merge.passes.blocks import Scratch
from evomerge.merge.passes.execute import execute
from evomerge.merge.plan import MergePlan
from evomerge.merge.skeleton import model_class, quiet_loading
from evomerge.recipe.mixture import Mixture
from evomerge.recipe.recipe import Recipe

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class PlannedMixture:
    """A mixture before its weights are read.

    Attributes:
        tensors: in the order in which they are written.
        config: of the model, with defaults; not yet as older readers spell it.
        architecture: of the model.
        experts: as they are written, with Arrow's two sides twice as many as there are sources.
        per_token: how many a token meets.
    """

    tensors: tuple[MixtureTensor, ...]
    config: Mapping[str, Any]
    architecture: MixtureArchitecture
    experts: int
    per_token: int

    @cached_property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of every tensor."""
        return tuple(each.spec for each in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def parameters(self) -> tuple[int, int]:
        """In all, and those that a token meets."""
        inside = f".{self.architecture.block}.experts."
        sizes = [(inside in spec.name, prod(spec.shape)) for spec in self.specs]
        routed = sum(size for is_expert, size in sizes if is_expert)
        rest = sum(size for is_expert, size in sizes if not is_expert)
        return routed + rest, rest + round(routed * self.per_token / self.experts)

    def write(
        self,
        folder: Path,
        shard_bytes: int = SHARD_BYTES,
        written: Callable[[str, torch.Tensor], None] | None = None,
    ) -> None:
        """Stream the weights into an existing folder, one tensor at a time.

        Args:
            folder: that is to hold them.
            shard_bytes: most bytes of one file.
            written: called with each tensor's name and content once it is written.

        Raises:
            CandidateError: `nonfinite_weights`; the folder is then incomplete.
        """
        writer = CheckpointWriter(folder, self.specs, shard_bytes)
        try:
            for each in self.tensors:
                made = each.make()
                if not bool(made.isfinite().all()):
                    wrong = f"{each.spec.name} has NaN or infinite elements"
                    raise CandidateError("nonfinite_weights", wrong, each.spec.name)
                writer.write(each.spec.name, made)
                if written is not None:
                    written(each.spec.name, made)
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def plan_mixture(
    mixture: Mixture,
    base: CheckpointFolder,
    routers: Routers,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], torch.Tensor],
    dtype: str,
) -> PlannedMixture:
    """Lay a mixture over a dense model; see `mixture_tensors` for `shapes` and `read`.

    Raises:
        CheckpointError: E234, no mixture that transformers knows has such experts.
        ConfigError: E109 prompts that cancel, E119 a layer that the base has not.
    """
    if mixture.layers[-1] >= base.layers:
        wrong = f"the base has layers 0 to {base.layers - 1}"
        found = f"found {mixture.layers[-1]}"
        raise ConfigError(Problem("E119", wrong, found, "", str(base.path), field="mixture.layers"))
    whole = [number for number in range(base.layers) if number not in mixture.layers]
    architecture = mixture_of(base, some_layers=bool(whole))
    experts, rows = routers.experts(mixture), routers.rows(mixture)
    tensors = mixture_tensors(shapes, read, experts, architecture, rows, dtype, mixture.layers)
    dense = AutoConfig.from_pretrained(base.path, trust_remote_code=False).to_dict()
    config = architecture.config(dense, len(experts), mixture.per_token, dtype, whole)
    return PlannedMixture(tuple(tensors), config, architecture, len(experts), mixture.per_token)


def mixture_on(
    recipe: Recipe,
    plan: MergePlan,
    base: CheckpointFolder,
    routers: Routers,
    readers: Mapping[str, Reader],
) -> PlannedMixture:
    """The mixture of a recipe, on the merge that `plan` is of.

    Raises:
        CheckpointError: E234.
        ConfigError: as `plan_mixture`; E119 also for a merge of other than all layers in order, or of
            models that had to be brought into one form.
    """
    mixture = recipe.mixture
    assert mixture is not None
    changed = recipe.align or recipe.heads or recipe.towers or recipe.rope or recipe.config
    if changed or not recipe.is_identity_path(base.layers, whole=False):
        wrong = "a mixture stands on a merge of all layers in order, of models of one form"
        todo = "write the dense merge first, and name it as the base"
        raise ConfigError(Problem("E119", wrong, "", todo, field="mixture"))
    entries, scratch = plan.by_name, Scratch()

    def read(name: str) -> torch.Tensor:
        entry = entries[name]
        out = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        execute(entry, readers, out, scratch)
        return out

    shapes = {entry.name: entry.shape for entry in plan.tensors}
    return plan_mixture(mixture, base, routers, shapes, read, recipe.dtype)


def live_mixture(planned: PlannedMixture, dtype: str, device: str) -> PreTrainedModel:
    """The mixture as transformers loads it, in evaluation mode; its files are gone again.

    Raises:
        CandidateError: `nonfinite_weights`.
    """
    with scratch_folder() as folder, quiet_loading():
        planned.write(folder)
        (folder / "config.json").write_text(json.dumps(planned.config), encoding="utf-8")
        kind: Any = model_class(open_folder(folder, "mixture"))
        loaded = kind.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
        )
        found: PreTrainedModel = loaded.to(device).eval()
        return found
