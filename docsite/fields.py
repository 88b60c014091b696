"""Every field of the files a person writes: type, default and meaning, from the models that read them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docsite.markdown import capital, table
from evomerge.campaign.file import CampaignFile
from evomerge.campaign.schema import evaluator_forms, models_of
from evomerge.files.field_docs import attributes_of, summary_of
from evomerge.optimizers.builtin import KINDS as OPTIMIZERS
from evomerge.optimizers.options import Between
from evomerge.recipe.catalogue import METHODS
from evomerge.search_space.declaration import SearchSpaceDeclaration

_WORDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "anything"}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

TITLES = {
    "CampaignFile": "The file",
    "CheckpointReference": "A model",
    "ObjectiveSection": "An objective",
    "OptimizerSection": "optimizer",
    "StageSection": "A stage",
    "BudgetSection": "budget",
    "EvaluationSection": "evaluation",
    "RacingSection": "racing",
    "WorkersSection": "workers",
    "BaselinesSection": "baselines",
    "TokenizerSection": "tokenizer",
    "TokenSection": "The row of a token",
    "SearchSpaceDeclaration": "The file",
    "CoefficientField": "A coefficient",
    "LayerPathSection": "layer_path",
    "ScaleField": "layer_path.scale",
    "TrajectorySection": "trajectory",
    "MixtureSection": "mixture",
    "TemperatureField": "mixture.temperature",
    "PromptsField": "mixture.prompts",
    "SplitTasks": "Tasks of an lm_eval evaluator",
    "SplitFiles": "Files for each split",
}
"""Class to the heading of its table."""


def campaign_page() -> str:
    """The campaign file."""
    text = [
        "# The campaign file",
        "YAML, read strictly: an unknown field, a key that stands twice or a number in quotes is a fault, "
        "and `evomerge check FILE` tells all faults at once. Paths are relative to the file. `evomerge run "
        "FILE --set budget.evaluations=100` changes a field for one run. `evomerge schema campaign` prints "
        "the JSON schema; campaigns that `evomerge init` writes name it in their first line, so that editors "
        "complete and check fields.",
        *_sections(models_of(CampaignFile)),
        "## Options of optimizers",
        "What `optimizer.options` may say, by `optimizer.kind` "
        "([which to choose](../optimizers.md)). `evomerge list optimizers` names installed ones too.",
    ]
    for name, kind in OPTIMIZERS.items():
        text += [f"### {name}", capital(kind.about) + "."]
        rows = _option_rows(kind.settings)
        text.append(table(["option", "type", "default", "meaning"], rows) if rows else "No options.")
    return "\n\n".join(text)


def search_space_page() -> str:
    """The search-space file, with methods."""
    rows = []
    for name, method in METHODS.items():
        coefficients = [
            f"`{c.name}` {c.low:g} to {c.high:g}, default {c.default:g}"
            + ("" if c.per_input else ", one for all")
            for c in method.coefficients
        ]
        options = [
            f"`{option}`: {', '.join(f'`{v}`' for v in values)}" for option, values in method.options
        ]
        rows.append([f"`{name}`", "; ".join(coefficients) or "none", "; ".join(options) or "none"])
    return "\n\n".join(
        [
            "# The search-space file",
            "Which merges are searched: a method, and over what each of its coefficients varies. "
            "`evomerge schema search-space` prints the JSON schema.",
            *_sections(models_of(SearchSpaceDeclaration)),
            "## Coefficients and options of the methods",
            "A coefficient is given for each expert, within these bounds where a file says nothing else; of "
            "options the first is the default. `compat: mergekit` gives every method mergekit's semantics. "
            "[Methods](../methods.md) has formulas and papers.",
            table(["method", "coefficients", "options"], rows),
        ]
    )


def evaluator_page() -> str:
    """Evaluator files of every kind."""
    text = [
        "# The evaluator file",
        "What scores a candidate. `kind` says which other fields there are. `evomerge schema evaluator` "
        "prints the JSON schema, `evomerge score MODEL FILE` scores one checkpoint. "
        "[Evaluation](../evaluation.md) and "
        "[objectives](../objectives.md) tell how.",
    ]
    shared: list[type[BaseModel]] = []
    for name, form in evaluator_forms().items():
        title = f"kind: {name}" if name else "Functions of your own"
        text += [f"## {title}", summary_of(form), _field_table(form)]
        shared += [each for each in models_of(form)[1:] if each not in shared]
    return "\n\n".join(text + list(_sections(shared)))


def _sections(models: Iterable[type[BaseModel]]) -> Iterable[str]:
    for model in models:
        yield f"## {TITLES[model.__name__]}"
        yield summary_of(model)
        yield _field_table(model)


def _field_table(model: type[BaseModel]) -> str:
    meanings = attributes_of(model)
    rows = []
    for name, field in model.model_fields.items():
        stated = field.alias or name
        rows.append(
            [
                f"`{stated}`",
                type_words(field.annotation, field.metadata),
                _default(field),
                capital(meanings[stated]),
            ]
        )
    return table(["field", "type", "default", "meaning"], rows)


def type_words(annotation: Any, limits: Iterable[Any] = ()) -> str:
    """A type in words, with bounds; a model is a link to its table."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(parts[0], (*parts[1:], *limits))
    if origin is Literal:
        return _alternatives([f"`{json.dumps(value) if value is True else value}`" for value in parts])
    if origin in (Union, types.UnionType):
        return _alternatives([type_words(part, limits) for part in parts if part is not type(None)])
    if origin is list:
        return f"list of: {type_words(parts[0])}"
    if origin is dict:
        return f"mapping of {type_words(parts[0])} to: {type_words(parts[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        title = TITLES[annotation.__name__]
        return f"[{title}](#{title.lower().replace(' ', '-').replace('.', '')})"
    bounds = [_bound(each) for each in limits]
    return " ".join([_WORDS[annotation], ", ".join(bound for bound in bounds if bound)]).strip()


def _bound(limit: Any) -> str:
    if isinstance(limit, Between):
        return f"from {limit.least:g} to {limit.most:g}"
    if isinstance(limit, FieldInfo):
        return ", ".join(filter(None, map(_bound, limit.metadata)))
    return ", ".join(
        f"{word} {getattr(limit, key):.12g}" for key, word in _LIMITS.items() if hasattr(limit, key)
    )


def _alternatives(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not given"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _option_rows(settings: type) -> list[list[str]]:
    hints = get_type_hints(settings, include_extras=True)
    meanings = attributes_of(settings)
    return [
        [
            f"`{f.name}`",
            type_words(hints[f.name]),
            f"`{_option_default(f.default)}`",
            capital(meanings[f.name]),
        ]
        for f in dataclasses.fields(settings)
    ]


def _option_default(value: Any) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
