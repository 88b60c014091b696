"""JSON schemas accept the files that evomerge reads, and refuse the slips that an editor should mark."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from evomerge.campaign.schema import SCHEMAS

REPOSITORY = Path(__file__).parents[2]
MARKS = {"campaign": "search_space", "search-space": "method", "evaluator": "kind"}
"""Form to a field that only its files have."""


def files() -> list[tuple[str, Path]]:
    """Every tracked file of one of the forms, as (form, path)."""
    found = []
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split():
        path = REPOSITORY / name
        text = path.read_text(encoding="utf-8")
        if not text.lstrip("#").count("\nschema: 1") and not text.startswith("schema: 1"):
            continue
        data = YAML(typ="safe", pure=True).load(text)
        found += [(form, path) for form, mark in MARKS.items() if mark in data][:1]
    return found


def faults(form: str, data: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMAS[form]()).iter_errors(data)]


def test_every_file_of_the_repository_is_accepted() -> None:
    known = files()
    assert {form for form, _ in known} == set(SCHEMAS)
    validators = {form: Draft202012Validator(schema()) for form, schema in SCHEMAS.items()}
    for validator in validators.values():
        Draft202012Validator.check_schema(validator.schema)
    for form, path in known:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        assert [error.message for error in validators[form].iter_errors(data)] == [], path


CAMPAIGN = {
    "schema": 1,
    "name": "x",
    "base": {"path": "b"},
    "experts": {"math": {"path": "m"}},
    "search_space": "s.yaml",
    "evaluators": ["e.yaml"],
    "objectives": [{"metric": "m.acc", "direction": "maximize"}],
    "budget": {"evaluations": 3},
}
SPACE = {"schema": 1, "method": "task_arithmetic"}
EVALUATOR = {"schema": 1, "kind": "latency", "name": "fast"}


@pytest.mark.parametrize(
    ("form", "data", "said"),
    [
        ("campaign", {**CAMPAIGN, "sead": 3}, "'sead' was unexpected"),
        ("campaign", {**CAMPAIGN, "seed": "3"}, "'3' is not of type 'integer'"),
        ("campaign", {**CAMPAIGN, "workers": {"pool": "dask"}}, "'dask' is not one of"),
        (
            "campaign",
            {**CAMPAIGN, "optimizer": {"kind": "nsga2", "options": {"start": "cold"}}},
            "'cold' is not one of",
        ),
        ("search-space", {**SPACE, "coefficients": {"wieght": {}}}, "'wieght' is not one of"),
        ("search-space", {**SPACE, "options": {"nonsense": 1}}, "'nonsense' was unexpected"),
        ("evaluator", {**EVALUATOR, "tokens": 0}, "0 is less than or equal to"),
        ("evaluator", {**EVALUATOR, "window": 9}, "'window' was unexpected"),
    ],
)
def test_slips_are_marked(form: str, data: dict[str, Any], said: str) -> None:
    found = faults(form, data)
    assert any(said in text for text in found), found


@pytest.mark.parametrize(
    ("form", "data"), [("campaign", CAMPAIGN), ("search-space", SPACE), ("evaluator", EVALUATOR)]
)
def test_the_plainest_files_are_accepted(form: str, data: dict[str, Any]) -> None:
    assert faults(form, data) == []


def test_every_field_has_words() -> None:
    def walk(node: Any) -> None:
        for name, entry in node.get("properties", {}).items() if isinstance(node, dict) else ():
            if node.get("additionalProperties") is False and node.get("type") == "object":
                assert entry.get("description"), name
        for child in (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        ):
            walk(child)

    for schema in SCHEMAS.values():
        walk(schema())
