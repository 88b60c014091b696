"""The kinds of evaluators there are, and the declaration behind a YAML file of any kind."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.code_execution import install_code_eval
from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.evaluator import Evaluator
from evomerge.evaluators.generation_length import Length, LengthDeclaration
from evomerge.evaluators.item_files import ItemsDeclaration
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, load_evaluator
from evomerge.evaluators.perplexity import Perplexity, PerplexityDeclaration
from evomerge.evaluators.pictures import ImageClassification, ImageClassificationDeclaration
from evomerge.evaluators.python_callable import CallableDeclaration, CallableEvaluator, entry_points
from evomerge.evaluators.registered import registered
from evomerge.evaluators.texts import TextClassification, TextClassificationDeclaration
from evomerge.evaluators.whole_model import (
    Distance,
    DistanceDeclaration,
    Latency,
    LatencyDeclaration,
    Size,
    SizeDeclaration,
)
from evomerge.files.yaml_file import load_yaml, other_form, position, validate


@dataclass(frozen=True)
class EvaluatorKind:
    """A kind of evaluator: what `evomerge list evaluators` says of it, its declaration, how it is opened."""

    about: str
    declaration: type[Declaration]
    open: Callable[[Any], Evaluator]


def _open_lm_eval(declaration: LmEvalDeclaration) -> Evaluator:
    from evomerge.evaluators.lm_eval_tasks import LmEvalTasks

    return LmEvalTasks(declaration)


KINDS: Mapping[str, EvaluatorKind] = {
    "lm_eval": EvaluatorKind(
        "lm-eval tasks from a folder of task files, one task for each split",
        LmEvalDeclaration,
        _open_lm_eval,
    ),
    "perplexity": EvaluatorKind(
        "perplexity per token on a text file", PerplexityDeclaration, Perplexity
    ),
    "length": EvaluatorKind("tokens written in answer to prompts", LengthDeclaration, Length),
    "text_classification": EvaluatorKind(
        "accuracy of a sequence classifier on JSON lines of texts",
        TextClassificationDeclaration,
        TextClassification,
    ),
    "image_classification": EvaluatorKind(
        "accuracy of an image classifier on arrays or a folder of pictures",
        ImageClassificationDeclaration,
        ImageClassification,
    ),
    "distance": EvaluatorKind(
        "L1 and L2 distance of the weights to the base", DistanceDeclaration, Distance
    ),
    "size": EvaluatorKind("number of parameters and layers", SizeDeclaration, Size),
    "latency": EvaluatorKind(
        "seconds per token, measured (not deterministic)", LatencyDeclaration, Latency
    ),
}
"""Built-in kinds; installed functions come beside them and do not replace them."""


def load_declaration(path: Path) -> Declaration:
    """Read a declaration of any kind; paths in it come back absolute.

    Raises:
        ConfigError: with every fault of the file itself, E108 for an unknown kind;
            `Declaration.problems` finds those of what it names.
    """
    data, positions = load_yaml(path)
    if "kind" not in data and not {"metrics", "tasks"} & {*data}:
        other = other_form(data, LmEvalDeclaration.model_fields, ("kind",), str(path))
        todo = f"add `kind`, one of {', '.join(KINDS)} or a function of your own"
        place = (str(path), *position(positions, ("kind",)), "kind")
        raise ConfigError(other or Problem("E103", "missing field", "", todo, *place))
    kind = data.get("kind", "lm_eval")
    if isinstance(kind, str) and kind in KINDS and kind in registered():
        place = (str(path), *position(positions, ("kind",)), "kind")
        todo = "register the function under another name"
        raise ConfigError(
            Problem("E108", f"`{kind}` is built in, and a function too", "", todo, *place)
        )
    if kind == "lm_eval":
        return load_evaluator(path)
    installed = {**entry_points(), **registered()}
    if not isinstance(kind, str) or kind not in (*KINDS, *installed):
        known = (*KINDS, *installed)
        near = difflib.get_close_matches(str(kind), known, n=1)
        todo = f"did you mean `{near[0]}`?" if near else f"kinds: {', '.join(known)}"
        place = (str(path), *position(positions, ("kind",)), "kind")
        raise ConfigError(Problem("E108", "no such kind of evaluator", f"found {kind!r}", todo, *place))
    model = KINDS[kind].declaration if kind in KINDS else CallableDeclaration
    declaration = validate(model, data, positions, str(path))
    if isinstance(declaration, ItemsDeclaration):
        declaration = declaration.model_copy(update=declaration.beside(path.parent))
    declaration._file = str(path)
    declaration._positions = dict(positions)
    return declaration


def open_evaluator(declaration: Declaration, *, allow_code: bool = False) -> Evaluator:
    """The evaluator of a declaration; loads what its kind needs.

    `allow_code` lets task files run the Python they name (`!function`, `unsafe_code`).

    Raises:
        ConfigError: with every problem the declaration finds, or if it cannot be opened.
    """
    if problems := declaration.problems(allow_code=allow_code):
        raise ConfigError(problems)
    if allow_code:
        install_code_eval()
    if isinstance(declaration, CallableDeclaration):
        return CallableEvaluator(declaration)
    return KINDS[declaration.kind].open(declaration)
