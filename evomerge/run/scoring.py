"""Score checkpoint folders by the worker's own code; also used when an export is scored.

Importing this loads neither torch nor transformers: `offline` must be called before they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.checkpoint.compare import compare_with_base
from evomerge.checkpoint.folder import CheckpointFolder, open_folder, read_json, text_config
from evomerge.errors import CandidateError, CheckpointError, Problem, UsageError
from evomerge.evaluators.evaluator import Evaluator, Head, Subject, Writer
from evomerge.evaluators.judge import score_subject
from evomerge.evaluators.kinds import load_declaration, open_evaluator
from evomerge.objectives.scores import SPLITS, Scores, Split
from evomerge.recipe.recipe import DTYPES


def offline() -> None:
    """Let no library look for a hub: data and models were resolved before."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def open_evaluators(files: Sequence[Path], *, allow_code: bool = False) -> list[Evaluator]:
    """The evaluators of some files, their items and requests built; loads lm-eval.

    `allow_code` lets task files run the Python they name.

    Raises:
        ConfigError: if an evaluator has faults.
    """
    offline()
    return [open_evaluator(load_declaration(file), allow_code=allow_code) for file in files]


def reads_distance(evaluator: Evaluator) -> bool:
    """Whether an evaluator needs the distance of the weights to the base."""
    return bool({"l1", "l2"} & {*evaluator.declaration.reads})


def distance_statistics(
    evaluators: Sequence[Evaluator], folder: Path, base: Path, dtype: str
) -> dict[str, float]:
    """`l1` and `l2` between two checkpoint folders, if an evaluator needs them.

    Raises:
        CheckpointError: if a folder cannot be read, or their tensors differ.
    """
    from evomerge.merge.distance import checkpoint_distance

    if not any(map(reads_distance, evaluators)):
        return {}
    l1, l2 = checkpoint_distance(open_folder(folder, folder.name), open_folder(base, "base"), dtype)
    return {"l1": l1, "l2": l2}


def score_checkpoint(
    folder: Path,
    evaluator: Path,
    *,
    split: Split,
    dtype: str,
    batch_size: int,
    device: str,
    base: Path | None = None,
    ensemble: Sequence[Path] = (),
    allow_task_code: bool = False,
) -> Scores:
    """Score one checkpoint folder with one evaluator by the worker's own code.

    `base` is the folder of the model that distances are measured from; `ensemble` holds folders of models
    with which it answers as one (see `logit_ensemble`); `allow_task_code` lets task files run the Python they
    name.

    Raises:
        CheckpointError: if a folder cannot be read, or those of an ensemble do not fit together; E232, if
            outputs or scores are not finite.
        ConfigError: if the evaluator has faults.
        UsageError: if the evaluator measures a distance and there is no `base`; E500, for a split or dtype
            that there is not, and of an ensemble and an evaluator that does not go by log-likelihoods.
    """
    for name, given, known in (("split", split, SPLITS), ("dtype", dtype, (*DTYPES,))):
        if given not in known:
            todo = f"give one of {', '.join(known)}"
            raise UsageError(Problem("E500", f"no such {name}", f"found {given!r}", todo))
    evaluators = open_evaluators([evaluator], allow_code=allow_task_code)
    opened = open_folder(folder, folder.name)
    if ensemble:
        _refuse_ensemble(opened, ensemble, evaluators[0], split)
    statistics = {} if base is None else distance_statistics(evaluators, folder, base, dtype)
    from evomerge.merge.skeleton import model_class

    def loaded(path: Path) -> Any:
        kind: Any = model_class(opened)
        found = kind.from_pretrained(path, dtype=torch_dtype(dtype), trust_remote_code=False)
        return found.to(device).eval()

    model = loaded(folder)
    if ensemble:
        from evomerge.merge.ensemble import logit_ensemble

        model = logit_ensemble([model, *map(loaded, ensemble)])
    subject = Subject(
        model=model,
        tokenizer=load_tokenizer(folder),
        statistics=statistics,
        device=device,
        batch_size=batch_size,
        folder=folder,
        heads={} if ensemble else heads_beside(folder, model),
    )
    try:
        return score_subject(subject, evaluators, split)
    except CandidateError as error:
        found = f"{error.kind}: {error}"
        problem = Problem("E232", "this model cannot be scored", found, file=str(folder))
        raise CheckpointError(problem) from error


def _refuse_ensemble(
    first: CheckpointFolder, others: Sequence[Path], evaluator: Evaluator, split: Split
) -> None:
    from evomerge.evaluators.losses import Differentiable

    writes = isinstance(evaluator, Writer) and evaluator.writes(split)
    split_in_two = bool(first.config.get("is_encoder_decoder"))
    if not isinstance(evaluator, Differentiable) or writes or split_in_two:
        wrong = "an ensemble is one of decoders or classifiers, scored by log-likelihoods only"
        todo = "take an evaluator of choices, texts or classes"
        found = f"`{evaluator.name}` on {first.config.get('model_type')}"
        raise UsageError(Problem("E500", wrong, found, todo))
    problems = compare_with_base(first, [open_folder(path, path.name) for path in others])
    if problems:
        raise CheckpointError(problems)


def heads_beside(folder: Path, model: Any) -> Mapping[str, Head]:
    """The heads that lie beside an export, as parameters of the model that was loaded from it.

    Raises:
        CheckpointError: if the folder cannot be read.
    """
    from evomerge.merge.binding import bind
    from evomerge.merge.heads import Heads

    heads = Heads.beside(folder)
    if not heads.tensors:
        return {}
    return heads.on(bind(model, open_folder(folder, folder.name)), model.device, model.dtype)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; None, where its config knows no vocabulary.

    Raises:
        CheckpointError: E234, if it cannot be loaded.
    """
    config = read_json(folder / "config.json", "E202", "no usable config.json")
    if text_config(config).get("vocab_size") is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise CheckpointError(
            Problem("E234", "the tokenizer cannot be loaded", found, file=str(folder))
        ) from error


def torch_dtype(name: str) -> Any:
    """The torch dtype of this name, such as `bfloat16`."""
    import torch

    return getattr(torch, name)
