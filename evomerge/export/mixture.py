"""A mixture of dense models as a checkpoint, checked by loading it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.open import open_source
from evomerge.checkpoint.reader import TensorReader, open_reader
from evomerge.errors import CandidateError, CheckpointError, ConfigError, Problem
from evomerge.export.files import CONFIG_FILE, copy_side_files, output_config, write_json
from evomerge.export.verify import check_loading
from evomerge.files.staging import check_space, claim_target, staged_folder
from evomerge.merge.mixture.declaration import MixtureDeclaration, load_mixture
from evomerge.merge.mixture.planned import SHARD_BYTES, plan_mixture
from evomerge.merge.mixture.routers import Routers
from evomerge.merge.skeleton import quiet_loading


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
    file: Path, out: Path, *, overwrite: bool = False, shard_bytes: int = SHARD_BYTES
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
    _refuse_layers(declaration, base, file)
    mixture = declaration.mixture(tuple(experts), base.layers)
    own = TensorReader(base)
    readers = {name: open_reader(source, own) for name, source in experts.items()}
    shapes = {name: header.shape for name, header in base.tensors.items()}
    routers = Routers(base, readers)
    planned = plan_mixture(mixture, base, routers, shapes, own.read, declaration.dtype)
    check_space(out, planned.nbytes)
    with staged_folder(out, overwrite=overwrite) as staged:
        try:
            planned.write(staged, shard_bytes)
        except CandidateError as error:
            problem = Problem("E232", "a model has NaN or infinite weights", str(error), file=str(file))
            raise CheckpointError(problem) from error
        config, _ = output_config(planned.config, declaration.dtype, {})
        write_json(staged / CONFIG_FILE, config)
        copy_side_files(base.path, staged)
        with quiet_loading():
            check_loading(staged, declaration.dtype)
    parameters, active = planned.parameters
    return MixtureReport(
        out.name, planned.architecture.name, planned.experts, planned.per_token, parameters, active,
        planned.nbytes, time.perf_counter() - started,
    )  # fmt: skip


def _refuse_layers(declaration: MixtureDeclaration, base: CheckpointFolder, file: Path) -> None:
    beyond = [number for number in declaration.layers or () if number >= base.layers]
    if beyond:
        wrong = f"the base has layers 0 to {base.layers - 1}"
        problem = Problem("E110", wrong, f"found {beyond[0]}", "", str(file), field="layers")
        raise ConfigError(problem)


def _experts(
    declaration: MixtureDeclaration, base: CheckpointFolder, folder: Path
) -> dict[str, CheckpointFolder | AdapterFolder]:
    """The models by the names that faults have; one that is named twice is two experts."""
    sources = {
        f"experts[{number}]": open_source(
            (folder / each.source_model).resolve(), f"experts[{number}]", base
        )
        for number, each in enumerate(declaration.experts)
    }
    problems = compare_with_base(base, list(sources.values()))
    for source in sources.values():
        if isinstance(source, AdapterFolder) and not source.factored:
            wrong, todo = "this adapter is no plain LoRA", "write it as a model: `evomerge merge`"
            problems.append(Problem("E234", wrong, "", todo, str(source.path)))
    if problems:
        raise CheckpointError(problems)
    return sources
