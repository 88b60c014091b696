"""JSON schemas of the files a person writes, for editors: made from the models that read them.

A schema says what single fields may be, by kind of optimizer, evaluator and method; what `check` finds when
it looks at models and items, and rules between fields, are beyond it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from evomerge.campaign.file import CampaignFile
from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.kinds import KINDS as EVALUATORS
from evomerge.evaluators.python_callable import CallableDeclaration
from evomerge.files.field_docs import attributes_of, summary_of
from evomerge.optimizers.builtin import KINDS as OPTIMIZERS
from evomerge.optimizers.options import option_form
from evomerge.recipe.catalogue import METHODS
from evomerge.search_space.declaration import SearchSpaceDeclaration

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def campaign_schema() -> Schema:
    """The schema of a campaign file."""
    schema = _model_schema(CampaignFile, "evomerge campaign")
    for section in ("OptimizerSection", "StageSection"):
        form = schema["$defs"][section]
        form["properties"]["kind"]["examples"] = list(OPTIMIZERS)
        form["allOf"] = [
            _where("kind", [name], {"properties": {"options": _options_schema(kind.settings)}})
            for name, kind in OPTIMIZERS.items()
        ]
    return schema


def search_space_schema() -> Schema:
    """The schema of a search-space file."""
    schema = _model_schema(SearchSpaceDeclaration, "evomerge search space")
    schema["properties"]["method"]["examples"] = list(METHODS)
    schema["allOf"] = [
        _where(
            "method",
            [name],
            {
                "properties": {
                    "coefficients": {"propertyNames": {"enum": [c.name for c in method.coefficients]}},
                    "options": {
                        "properties": {
                            option: {"enum": list(values)}
                            for option, values in method.allowed_options.items()
                        },
                        "additionalProperties": False,
                    },
                }
            },
        )
        for name, method in METHODS.items()
    ]
    return schema


def evaluator_schema() -> Schema:
    """The schema of an evaluator file of any kind; kinds that are not built in are functions of one's own."""
    forms: dict[str, Schema] = {}
    shared: dict[str, Schema] = {}
    for name, kind in evaluator_forms().items():
        form = _model_schema(kind, "")
        shared |= form.pop("$defs", {})
        form.pop("$schema")
        forms[name] = form
    own = forms.pop("")
    conditions = [_where("kind", [name], {"$ref": f"#/$defs/{name}"}) for name in forms]
    other = {"properties": {"kind": {"not": {"enum": list(forms)}}}, "required": ["kind"]}
    return {
        "$schema": DIALECT,
        "title": "evomerge evaluator",
        "type": "object",
        "properties": {
            "schema": {"const": 1},
            "kind": {"type": "string", "examples": list(forms)},
            "name": {"type": "string"},
        },
        "required": ["schema", "kind", "name"],
        "allOf": [*conditions, {"if": other, "then": {"$ref": "#/$defs/own"}}],
        "$defs": {**shared, **forms, "own": own},
    }


SCHEMAS: Mapping[str, Callable[[], Schema]] = {
    "campaign": campaign_schema,
    "search-space": search_space_schema,
    "evaluator": evaluator_schema,
}
"""What a file is to its schema."""


def evaluator_forms() -> dict[str, type[Declaration]]:
    """Kind of evaluator to its declaration; the empty name is that of functions of one's own."""
    return {**{name: kind.declaration for name, kind in EVALUATORS.items()}, "": CallableDeclaration}


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and every model that its fields hold, each once, in the order of the file."""
    found = [model]
    for kind in found:
        for field in kind.model_fields.values():
            found += [each for each in _models_in(field.annotation) if each not in found]
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _model_schema(model: type[BaseModel], title: str) -> Schema:
    """Pydantic's schema, with what the docstrings say of every field."""
    schema = model.model_json_schema(by_alias=True)
    for kind in models_of(model):
        form = schema if kind is model else schema["$defs"][kind.__name__]
        texts = attributes_of(kind)
        form["description"] = summary_of(kind)
        for name, field in kind.model_fields.items():
            entry = form["properties"][field.alias or name]
            entry.pop("title", None)
            entry["description"] = texts[field.alias or name]
    return {"$schema": DIALECT, **schema, "title": title or schema["title"]}


def _where(field: str, values: Sequence[str], then: Schema) -> Schema:
    return {
        "if": {"properties": {field: {"enum": list(values)}}, "required": [field]},
        "then": then,
    }


def _options_schema(settings: type) -> Schema:
    """The settings of a kind of optimizer, as read from a file."""
    hints = get_type_hints(settings, include_extras=True)
    texts = attributes_of(settings)
    properties = {}
    for field in dataclasses.fields(settings):
        properties[field.name] = {
            **_option_schema(hints[field.name]),
            "default": field.default,
            "description": texts.get(field.name, ""),
        }
    return {"properties": properties, "additionalProperties": False}


def _option_schema(annotation: Any) -> Schema:
    if get_origin(annotation) is Literal:
        return {"enum": list(get_args(annotation))}
    kind, bounds = option_form(annotation)
    form = {"type": {bool: "boolean", str: "string", int: "integer", float: "number"}[kind]}
    return form if bounds is None else {**form, "minimum": bounds.least, "maximum": bounds.most}
