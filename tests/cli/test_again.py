"""What a stopped run, study or refinement says to go on with is the command that was given."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from evomerge.cli.again import same_command
from evomerge.cli.app import app

COMMANDS = (
    "evomerge run a.yaml --dir 'my runs' --seed 3 --set optimizer.population=48 --set 'name=two words'"
    " --allow-task-code --allow-benchmark-test --track wandb --track mlflow --log-json --metrics-port 0"
    " --json",
    "evomerge run a.yaml --dir run",
    "evomerge study run a.yaml --dir study --seeds 20,21 --arms arms.yaml --at-once 2 --set seed.x=1"
    " --allow-task-code --markdown",
    "evomerge refine run --prefer math=0.7,code=0.3 --evaluations 5 --allow-task-code",
)


def context_of(words: list[str]) -> Any:
    """The context that a verb is given."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("evomerge", list(words), resilient_parsing=False)
    while hasattr(group, "get_command"):
        name, group, rest = group.resolve_command(context, [*words])
        context, words = group.make_context(name, list(rest), parent=context), rest
    return context


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_the_command_that_was_given(command: str) -> None:
    assert same_command(context_of(shlex.split(command)[1:])) == command


def test_a_takeover_is_not_repeated_and_a_file_may_be_stated_in_full() -> None:
    context = context_of(["run", "a.yaml", "--dir", "run", "--takeover"])
    assert same_command(context, file=Path("/there/a.yaml")) == "evomerge run /there/a.yaml --dir run"
