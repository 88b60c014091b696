"""Fields of a campaign file stated otherwise: the same as another file, faults named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.changes import parse_change
from evomerge.errors import ConfigError, UsageError
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("models", "evaluators"):
        (tmp_path / name).symlink_to(finished().file.parent / name)
    return write_campaign(tmp_path)


def test_changes_are_another_file(file: Path) -> None:
    words = (
        "seed=21", "optimizer.population=8", "optimizer.options={eta_crossover: 12.0}",
        "objectives.1.direction=minimize", "racing.threshold=0.5", "evaluation.dtype=bfloat16",
    )  # fmt: skip
    changed = load_campaign(file, [parse_change(text) for text in words]).config
    stated = json.loads(file.read_text())
    stated["seed"] = 21
    stated["optimizer"] |= {"population": 8, "options": {"eta_crossover": 12.0}}
    stated["objectives"][1]["direction"] = "minimize"
    stated["racing"] = {"threshold": 0.5}
    stated["evaluation"]["dtype"] = "bfloat16"
    file.write_text(json.dumps(stated))
    assert changed == load_campaign(file).config


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            "optimizer.popultion=8",
            r"E104\] \S+ optimizer.popultion: unknown field; did you mean `population`",
        ),
        ("optimizer.population=many", r"E\d+\] \S+ optimizer.population"),
        ("budget.evaluations=4", r"a population of 6 needs a budget"),
        ("seed.x=1", r"E104\] \S+ seed.x: --set seed.x=1: `x` is no field here; found 7"),
        ("objectives.5.metric=a", r"`5` is no field here; a list of 2"),
    ],
)
def test_faults_of_changes_name_their_field(file: Path, words: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_campaign(file, [parse_change(words)])


def test_what_is_no_change_is_refused() -> None:
    for text in ("seed", "=3", "a..b=3"):
        with pytest.raises(UsageError, match=r"E500\] --set: a change is FIELD=VALUE; found"):
            parse_change(text)
    with pytest.raises(UsageError, match=r"E500\] --set: `seed=\[1` has no value"):
        parse_change("seed=[1")
    with pytest.raises(UsageError, match=r"--set: `name=2026-02-31` has no value; day is out of range"):
        parse_change("name=2026-02-31")
    with pytest.raises(UsageError, match=r"has no value; maximum recursion depth"):
        parse_change("name=" + 2000 * "[")


def test_a_run_with_another_seed(file: Path, tmp_path: Path) -> None:
    words = ["run", file, "--dir", tmp_path / "run", "--seed", 21, "--set", "budget.evaluations=6"]
    assert call(*words).code == 0
    config = events_of(tmp_path / "run")[0]["config"]
    assert (config["seed"], config["budget"]["evaluations"]) == (21, 6)
    assert call(*words).code == 0, "the same words go on"
    other = call("run", file, "--dir", tmp_path / "run")
    assert other.code == 3
    assert "seed" in other.err
    assert call("check", file, "--seed", 21, "--set", "experts.math.path=nowhere").code == 4
