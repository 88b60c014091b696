"""What pages tell a reader to type: commands are parsed, files checked, the task of ten lines dealt out."""

from __future__ import annotations

import json
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
from tests.cli.terminal import call
from tests.tiny_models import write_campaign

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *(page for page in sorted((REPOSITORY / "docs").rglob("*.md")) if page.parent.name != "reference"),
]
"""Those that people wrote."""
MARKS = {"search_space": "campaign", "method": "search-space", "kind": "evaluator"}


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def blocks(page: Path, word: str = "") -> list[str]:
    """Fenced blocks of a language; of none, those of plain commands too."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{word}\n(.*?)^```$", text, re.M | re.S)


def commands(page: Path) -> list[str]:
    """Lines that a reader may type, prompts and comments taken off."""
    lines = [line for block in blocks(page, "(?:sh|bash|)") for line in block.splitlines()]
    lines += re.findall(r"^    (evomerge .*)$", page.read_text(encoding="utf-8"), re.M)
    plain = (re.sub(r"^\$ ", "", line).removeprefix(".venv/bin/") for line in lines)
    return [
        re.sub(r"(?: #| >|\.\.\.$).*", "", line).strip()
        for line in plain
        if line.startswith("evomerge ")
    ]


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


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_campaign(tmp_path, evaluators=("math",))
    page = REPOSITORY / "docs" / "recipes" / "own_task.md"
    for block in blocks(page, "yaml"):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    (stated,) = blocks(page, "json")
    items = [json.loads(line) for line in stated.splitlines()]
    items = [{**item, "question": f"{n}: {item['question']}"} for n in range(30) for item in items]
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "tasks" / "capitals.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        if line.startswith(("evomerge split", "evomerge check")):
            found = call(*shlex.split(line)[1:])
            assert found.code == 0, (line, found.err)
