"""A model in another's order of units, as a checkpoint; the loss between the two, before and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.reader import TensorReader
from evomerge.checkpoint.writer import CheckpointWriter, TensorSpec
from evomerge.export.files import CONFIG_FILE, copy_side_files, output_config, write_json
from evomerge.export.stated import open_pair, see_mix
from evomerge.export.verify import check_loading
from evomerge.files.staging import check_space, claim_target, staged_folder
from evomerge.merge.align.activations import activations
from evomerge.merge.align.barrier import LossLine, loss_line
from evomerge.merge.align.matching import Seen, match_weights
from evomerge.merge.align.symmetries import Symmetries, symmetries_of
from evomerge.merge.skeleton import quiet_loading
from evomerge.merge.statistics.calibration_items import read_items
from evomerge.recipe.calibration import Calibration


@dataclass(frozen=True)
class Alignment:
    """How a model was put in order: of each kind of unit how many moved, of how many; seconds."""

    moved: dict[str, tuple[int, int]]
    seconds: float


@dataclass(frozen=True)
class Barrier:
    """Losses on the line between two models, as they are and with the second one aligned."""

    plain: LossLine
    aligned: LossLine
    alignment: Alignment


def write_aligned(
    anchor: Path,
    model: Path,
    out: Path,
    *,
    residual: bool = True,
    text: Path | None = None,
    mix: float = 1.0,
    overwrite: bool = False,
) -> Alignment:
    """Write `model` with its units in the order of `anchor`: the same function, other weights.

    Args:
        anchor: whose order is taken.
        model: that is put in order.
        out: the folder to write.
        residual: whether the residual stream is permuted too.
        text: on which units are compared by what they do, an item a line.
        mix: share of the weights in what is compared; below 1 there must be a text.
        overwrite: replace a model folder that is there.

    Raises:
        ConfigError: E101 and E109, the text cannot be read or has no item.
        CheckpointError: models that cannot be read or do not fit together; E234, unknown symmetries.
        UsageError, EnvironmentFault: the folder cannot be written; E500, a mix without text, or the reverse.
        ExportCheckFailed: E602, transformers cannot load it.
    """
    started = time.perf_counter()
    see_mix(text, mix)
    out = claim_target(out, overwrite=overwrite)
    first, second = open_pair(anchor, model)
    items = [] if text is None else read_items(Calibration(str(text)), [first.path], first)
    symmetries, found, moved = _matched(first, second, residual, items, mix)
    symmetries.check(found)
    reader = TensorReader(second)
    specs = [TensorSpec(name, h.dtype, h.shape) for name, h in second.tensors.items()]
    check_space(out, sum(spec.nbytes for spec in specs))
    dtype = str(specs[0].dtype)
    with staged_folder(out, overwrite=overwrite) as staged:
        writer = CheckpointWriter(staged, specs, 5_000_000_000)
        try:
            for spec in specs:
                writer.write(spec.name, symmetries.apply(spec.name, reader.read(spec.name), found))
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        config, _ = output_config(second.config, dtype, {})
        write_json(staged / CONFIG_FILE, config)
        copy_side_files(second.path, staged)
        with quiet_loading():
            check_loading(staged, dtype)
    return Alignment(moved, time.perf_counter() - started)


def measure_barrier(
    first: Path,
    second: Path,
    text: Path,
    *,
    points: int = 11,
    residual: bool = True,
    mix: float = 1.0,
) -> Barrier:
    """The loss on a text along the line between two models, before and after alignment.

    With a `mix` below 1 units are compared by what they do on the same text too, see `write_aligned`.

    Raises:
        CheckpointError: models that cannot be read or do not fit together; E234, unknown symmetries.
        ConfigError: E101 and E109, the text cannot be read or has no item.
    """
    started = time.perf_counter()
    one, other = open_pair(first, second)
    items = read_items(Calibration(str(text)), [one.path], one)
    symmetries, found, moved = _matched(one, other, residual, items, mix)
    seconds = time.perf_counter() - started
    plain = loss_line(one, other, items, points)
    aligned = loss_line(one, other, items, points, symmetries, found)
    return Barrier(plain, aligned, Alignment(moved, seconds))


def _matched(
    anchor: CheckpointFolder,
    model: CheckpointFolder,
    residual: bool,
    items: Sequence[torch.Tensor],
    mix: float,
) -> tuple[Symmetries, dict[str, np.ndarray], dict[str, tuple[int, int]]]:
    symmetries = symmetries_of(anchor)
    seen = None
    if mix < 1.0:
        ours, theirs = (activations(each, symmetries, items) for each in (anchor, model))
        seen = Seen(ours, theirs, mix)
    readers = TensorReader(anchor).read, TensorReader(model).read
    found = match_weights(symmetries, *readers, residual=residual, seen=seen)
    moved: dict[str, tuple[int, int]] = {}
    for name, order in found.items():
        kind = name.partition(".")[0]
        before = moved.get(kind, (0, 0))
        changed = int((order != np.arange(len(order))).sum())
        moved[kind] = (before[0] + changed, before[1] + len(order))
    return symmetries, found, moved
