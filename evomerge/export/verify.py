"""What an export has to pass before it is published: it is reloaded and compared with what was scored.

Three looks at the staged folder, each by other code: our strict reader (every planned tensor once, with
its shape, dtype and the bytes that were streamed), transformers (no key missing or unexpected, finite
logits), and the campaign's evaluators (the recorded scores come out again).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import TensorReader
from evomerge.checkpoint.writer import TensorSpec
from evomerge.errors import CheckpointError, ExportCheckFailed, Problem
from evomerge.merge.probe import answer, probe_inputs
from evomerge.merge.skeleton import model_class
from evomerge.objectives.scores import Metric

NOTHING = "nothing was published"

ROUNDING = 1e-5
"""Relative; one item of a million more or less is a larger difference of any accuracy."""


class StreamedDigests:
    """SHA-256 of every tensor, taken while it is streamed; give `add` to `write_checkpoint`."""

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take in one tensor."""
        self.by_name[name] = tensor_digest(tensor)


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of a tensor's bytes, in memory order; any shape, dtype and device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def check_weights(folder: Path, specs: Iterable[TensorSpec], streamed: Mapping[str, str]) -> None:
    """Read the weights back and compare each tensor with what was planned and with what was streamed.

    Raises:
        ExportCheckFailed: E602, naming every tensor that differs.
    """
    try:
        opened = open_folder(folder, "export")
    except CheckpointError as error:
        raise _failed("the written folder cannot be read", str(error)) from error
    planned = {spec.name: spec for spec in specs}
    problems = [
        _problem("tensor was not planned", "", name)
        for name in (*opened.tensors, *opened.redundant)
        if name not in planned or name in opened.redundant
    ]
    reader = TensorReader(opened)
    for name, entry in planned.items():
        header = opened.tensors.get(name)
        if header is None:
            problems.append(_problem("tensor is missing", "", name))
        elif (header.shape, header.dtype) != (entry.shape, entry.dtype):
            found = f"{header.dtype} {list(header.shape)}, planned {entry.dtype} {list(entry.shape)}"
            problems.append(_problem("tensor has another shape or dtype", found, name))
        elif tensor_digest(reader.read(name)) != streamed.get(name):
            problems.append(_problem("tensor differs from what was streamed", "", name))
    if problems:
        raise ExportCheckFailed(problems)


def check_loading(folder: Path, dtype: str) -> Any:
    """Load the folder as anybody would, through transformers, and look at its outputs for a small input.

    That are a few tokens, or pixels of a picture; a model of several senses gets tokens alone.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        ExportCheckFailed: E602, keys missing, unexpected or mismatched, or logits that are not finite.
    """
    loaded: Any
    try:
        loaded = model_class(open_folder(folder, "export")).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _failed("transformers cannot load the written folder", _first_line(error)) from error
    model, found = loaded
    problems = [
        _problem(f"transformers reports {kind.replace('_', ' ')}", str(key))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        for key in sorted(map(str, found.get(kind) or ()))
    ]
    if problems:
        raise ExportCheckFailed(problems)
    probe = probe_inputs(model.eval())
    if probe:
        with torch.inference_mode():
            answered = answer(model, probe)
        if not bool(answered.isfinite().all()):
            raise _failed("the reloaded model's logits are not finite numbers")
    return model


def check_scores(
    split: str,
    recorded: Mapping[str, Metric],
    measured: Mapping[str, Metric],
    device: str,
    versions: Mapping[str, tuple[str, str]],
) -> tuple[str, ...]:
    """Compare scores of the reloaded export with those the campaign recorded; returns warnings.

    On the CPU they must be identical, but for the last digits of sums of many logarithms (perplexity), which
    depend on the number of threads. On other devices results depend on kernels and clocks, so that a
    difference of up to one standard error is a warning.

    Args:
        split: whose items.
        recorded: metric name to value, from the ledger.
        measured: the same, of the reloaded export.
        device: torch device of the evaluation.
        versions: libraries that changed since the campaign began, name to (then, now).

    Raises:
        ExportCheckFailed: E602, naming every metric that differs.
    """
    changed = ", ".join(f"{name} {then} then, {now} now" for name, (then, now) in versions.items())
    todo = f"{NOTHING}; the campaign ran with other versions: {changed}" if changed else NOTHING
    problems, warnings = [], []
    for name, then in sorted(recorded.items()):
        now = measured.get(name)
        if now is None:
            problems.append(_problem(f"{split} score was not measured", field=name))
            continue
        same = math.isclose(now.value, then.value, rel_tol=ROUNDING)
        if now == then or (same and now.items == then.items):
            continue
        found = f"recorded {then.value!r} on {then.items} items, reloaded {now.value!r} on {now.items}"
        near = math.isclose(now.value, then.value, rel_tol=0.0, abs_tol=then.stderr)
        if device != "cpu" and now.items == then.items and near:
            warnings.append(f"{name} on {split} items, device {device}: {found}")
        else:
            wrong = f"the reloaded model has another {split} score than was recorded"
            problems.append(Problem("E602", wrong, found, todo, field=name))
    if problems:
        raise ExportCheckFailed(problems)
    return tuple(warnings)


def _problem(wrong: str, found: str = "", field: str = "") -> Problem:
    return Problem("E602", wrong, found, NOTHING, field=field)


def _failed(wrong: str, found: str = "") -> ExportCheckFailed:
    return ExportCheckFailed(_problem(wrong, found))


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
