"""What pages tell a reader to type and write: commands are parsed (`test_commands` runs them), files too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from typer.exceptions import TyperException

from evomerge.campaign.schema import SCHEMAS
from evomerge.cli.app import app

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *(page for page in sorted((REPOSITORY / "docs").rglob("*.md")) if page.parent.name != "reference"),
]
"""Those that people wrote."""
PROGRAMS = ("evomerge", "python", "python3", "make", "cd", "hf", "lm_eval", "kubectl", "pip")
MARKS = {"search_space": "campaign", "method": "search-space", "kind": "evaluator"}


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def fenced(page: Path) -> list[tuple[str, str]]:
    """Language (empty for none) and text of every fenced block."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append((line[3:].strip(), []))
        elif inside:
            found[-1][1].append(line)
    return [(word, "".join(f"{line}\n" for line in lines)) for word, lines in found]


def blocks(page: Path, *words: str) -> list[str]:
    """Fenced blocks of some languages."""
    return [text for word, text in fenced(page) if word in words]


def typed(page: Path) -> list[str]:
    """Lines that a reader may type, without prompts, comments and where their output goes."""
    lines = [line for block in blocks(page, "", "sh", "bash") for line in block.splitlines()]
    text = page.read_text(encoding="utf-8")
    lines += re.findall(rf"^    ((?:{'|'.join(PROGRAMS)}) .*)$", text, re.M)
    whole = "\n".join(lines).replace("\\\n", "").split("\n")
    plain = (re.sub(r"^\$ ", "", line).removeprefix(".venv/bin/") for line in whole)
    each = (part for line in plain for part in line.split(" && ") if line.split(" ")[0] in PROGRAMS)
    return [re.sub(r"(?: #| >|\.\.\.$).*", "", line).strip() for line in each]


def commands(page: Path) -> list[str]:
    """Those of evomerge itself."""
    return [line for line in typed(page) if line.startswith("evomerge ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_understood(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for line in commands(page):
        words = shlex.split(line)[1:]
        command = group
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), f"no such verb: {line}"
        assert refusal(command, words) == "", line


def refusal(command: Any, words: list[str]) -> str:
    """What a verb says against its words, but for files that are not there."""
    try:
        command.make_context("evomerge", words)
    except TyperException as error:
        return "" if "does not exist" in error.format_message() else error.format_message()
    return ""


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name)
def test_files_are_of_their_form(page: Path) -> None:
    for block in blocks(page, "yaml"):
        data = YAML(typ="safe", pure=True).load(block)
        if isinstance(data, dict) and data.get("schema") == 1:
            form = next((form for mark, form in MARKS.items() if mark in data), None)
            if form is None:
                continue
            found = [error.message for error in Draft202012Validator(SCHEMAS[form]()).iter_errors(data)]
            assert found == [], block
