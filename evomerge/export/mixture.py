"""A mixture of dense models as a checkpoint, checked by loading it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from transformers import AutoConfig

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import TensorReader, open_reader
from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.errors import CheckpointError, ConfigError, Problem
from evomerge.export.files import CONFIG_FILE, copy_side_files, output_config, write_json
from evomerge.export.verify import check_loading, quiet_loading
from evomerge.files.staging import check_space, claim_target, staged_folder
from evomerge.merge.mixture.architectures import MLP, READERS, MixtureArchitecture, mixture_of
from evomerge.merge.mixture.declaration import MixtureDeclaration, load_mixture
from evomerge.merge.mixture.experts import Expert, arrow_rows
from evomerge.merge.mixture.gates import prompted_gates, random_gates
from evomerge.merge.mixture.tensors import MixtureTensor, mixture_tensors
from evomerge.merge.statistics.calibrated import expert_model


@dataclass(frozen=True)
class MixtureReport:
    """What was written: parameters in all, those at work for a token, bytes of weights, seconds."""

    out: str
    architecture: str
    experts: int
    per_token: int
    parameters: int
    active: int
    nbytes: int
    seconds: float


def write_mixture(
    file: Path, out: Path, *, overwrite: bool = False, shard_bytes: int = 5_000_000_000
) -> MixtureReport:
    """Carry out a mixture's file. Weights are streamed, the base runs once over the prompts in float32.

    Args:
        file: see `MixtureDeclaration`; models are folders, relative to it.
        out: the folder to write.
        overwrite: replace a model folder that is there.
        shard_bytes: most bytes of one weight file.

    Raises:
        ConfigError: faults of the file.
        CheckpointError: models that cannot be read or do not fit together; E234, no mixture has such experts.
        UsageError, EnvironmentFault: the folder cannot be written.
        ExportCheckFailed: E602, transformers cannot load it.
    """
    started = time.perf_counter()
    declaration = load_mixture(file)
    out = claim_target(out, overwrite=overwrite)
    base = open_folder((file.parent / declaration.base_model).resolve(), "base")
    experts = _experts(declaration, base, file.parent)
    whole = _whole(declaration, base, file)
    architecture = mixture_of(base, some_layers=bool(whole))
    gates = _gates(declaration, base, experts)
    if declaration.is_doubled:
        # The k largest of s and -s are the k largest of abs(s): Arrow's score by a linear router.
        experts, gates = experts * 2, torch.cat([gates, -gates], 1)
    tensors = mixture_tensors(base, experts, architecture, gates, declaration.dtype, whole)
    nbytes = sum(each.spec.nbytes for each in tensors)
    check_space(out, nbytes)
    with staged_folder(out, overwrite=overwrite) as staged:
        _write_weights(staged, tensors, shard_bytes)
        dense = AutoConfig.from_pretrained(base.path, trust_remote_code=False).to_dict()
        stated = architecture.config(
            dense, len(experts), declaration.experts_per_token, declaration.dtype, whole
        )
        config, _ = output_config(stated, declaration.dtype, {})
        write_json(staged / CONFIG_FILE, config)
        copy_side_files(base.path, staged)
        with quiet_loading():
            check_loading(staged, declaration.dtype)
    share = declaration.experts_per_token / len(experts)
    parameters, active = _parameters(tensors, architecture, share)
    return MixtureReport(
        out.name, architecture.name, len(experts), declaration.experts_per_token, parameters, active,
        nbytes, time.perf_counter() - started,
    )  # fmt: skip


def _whole(declaration: MixtureDeclaration, base: CheckpointFolder, file: Path) -> list[int]:
    """Numbers of the layers that keep the base's MLP."""
    if declaration.layers is None:
        return []
    beyond = [number for number in declaration.layers if number >= base.layers]
    if beyond:
        wrong = f"the base has layers 0 to {base.layers - 1}"
        problem = Problem("E110", wrong, f"found {beyond[0]}", "", str(file), field="layers")
        raise ConfigError(problem)
    return [number for number in range(base.layers) if number not in declaration.layers]


def _experts(declaration: MixtureDeclaration, base: CheckpointFolder, folder: Path) -> list[Expert]:
    sources = [
        open_source((folder / each.source_model).resolve(), f"experts[{number}]", base)
        for number, each in enumerate(declaration.experts)
    ]
    problems = compare_with_base(base, sources)
    for source in sources:
        if isinstance(source, AdapterFolder) and not source.factored:
            wrong, todo = "this adapter is no plain LoRA", "write it as a model: `evomerge merge`"
            problems.append(Problem("E234", wrong, "", todo, str(source.path)))
    if problems:
        raise CheckpointError(problems)
    own = TensorReader(base)
    return [Expert(own, open_reader(source, own), declaration.rank) for source in sources]


def _gates(
    declaration: MixtureDeclaration, base: CheckpointFolder, experts: list[Expert]
) -> torch.Tensor:
    """Rows of the routers, float32 [layers, experts, hidden]."""
    if declaration.gate_mode == "random":
        hidden = int(base.config["hidden_size"])
        spread = float(base.config.get("initializer_range", 0.02))
        rows = random_gates(declaration, base.layers, hidden, spread)
    elif declaration.gate_mode == "arrow":
        rows = arrow_rows(experts, _read_by(base))
    if declaration.is_prompted:
        model, _ = expert_model(base, TensorReader(base))
        prompted = prompted_gates(declaration, model, base.path)
        if declaration.gate_mode == "arrow":
            rows = torch.where((rows * prompted).sum(2, keepdim=True) < 0.0, -rows, rows)
        else:
            rows = prompted
    return rows / declaration.temperature


def _read_by(base: CheckpointFolder) -> list[list[str]]:
    """Of each layer the matrices that read what its router sees."""
    found: dict[int, list[str]] = {}
    for name in base.tensors:
        matched = MLP.fullmatch(name)
        if matched is not None and matched[3] in READERS:
            found.setdefault(int(matched[2]), []).append(name)
    return [found[layer] for layer in sorted(found)]


def _write_weights(folder: Path, tensors: list[MixtureTensor], shard_bytes: int) -> None:
    writer = CheckpointWriter(folder, [each.spec for each in tensors], shard_bytes)
    try:
        for each in tensors:
            writer.write(each.spec.name, each.make())
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def _parameters(
    tensors: list[MixtureTensor], architecture: MixtureArchitecture, share: float
) -> tuple[int, int]:
    """In all, and those that a token meets."""
    inside = f".{architecture.block}.experts."
    sizes = [(inside in each.spec.name, prod(each.spec.shape)) for each in tensors]
    routed = sum(size for is_expert, size in sizes if is_expert)
    rest = sum(size for is_expert, size in sizes if not is_expert)
    return routed + rest, rest + round(routed * share)
