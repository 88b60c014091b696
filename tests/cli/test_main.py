from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from evomerge import errors
from evomerge.cli import app, output
from evomerge.errors import EvomergeError, Problem
from evomerge.front import words
from evomerge.run.session import StopSignals
from tests.cli.terminal import call

VERBS = [
    "init",
    "check",
    "run",
    "status",
    "front",
    "report",
    "show",
    "export",
    "merge",
    "score",
    "verify",
    "list",
]
HEAVY = ("torch", "transformers", "lm_eval", "ray", "pymoo", "pydantic", "numpy", "rich")


def _python(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def test_help_is_quick():
    taken = []
    for _ in range(3):
        before = os.times()
        found = _python("-m", "evomerge.cli", "--help")
        after = os.times()
        # Of the processor: other programs on the machine take none of it.
        taken.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
        assert found.returncode == 0
    assert min(taken) < 0.5
    for verb in VERBS:
        assert f"\n  {verb} " in found.stdout


def test_the_module_loads_nothing_heavy():
    code = f"import sys, evomerge.cli; print([m for m in {HEAVY} if m in sys.modules])"
    assert _python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb):
    found = call(verb, "--help")
    assert found.code == 0
    assert "--json" in found.out


def test_no_verb_shows_help():
    assert call().code == 0
    assert "Commands:" in call().out


def test_version_names_the_libraries():
    found = call("--version")
    assert found.code == 0
    assert found.out.startswith("evomerge 0")
    for name in ("torch", "transformers", "lm-eval", "pymoo"):
        assert f"\n{name} " in found.out


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("frnt",), "No such command 'frnt'"),
        (("front",), "Missing argument"),
        (("front", "x", "--jso"), "No such option"),
        (("run", "x.yaml"), "Missing option '--dir'"),
        (("list", "models"), "optimizers': 'models' is not one of 'methods'"),
        (("score", "m", "e", "--batch-size", "0"), "Invalid value"),
        (("score", "m", "e", "--split", "train"), "Invalid value for '--split': 'train' is not one of"),
        (("front", "x", "--json", "--csv"), "exclude one another"),
    ],
)
def test_usage_errors(words, wrong):
    found = call(*words)
    assert found.code == 2
    text = found.out + found.err
    assert "E500" in text
    assert wrong in text
    assert "Traceback" not in text


def test_usage_error_as_json():
    found = call("front", "--json")
    assert found.code == 2
    assert found.err == ""
    (entry,) = found.json["errors"]
    assert entry["code"] == "E500"
    assert "evomerge front --help" in entry["todo"]


def _all_errors() -> list[type[EvomergeError]]:
    found, queue = [], [EvomergeError]
    while queue:
        kind = queue.pop()
        found.append(kind)
        queue += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", _all_errors())
def test_every_error_has_its_exit_code(kind, monkeypatch, tmp_path):
    def fail(path, changes):
        raise kind(
            [
                Problem("E104", "unknown field", "", "did you mean `seed`?", "a.yaml", 3, 1, "sed"),
                Problem("E103", "missing field", file="a.yaml", field="base"),
            ]
        )

    monkeypatch.setattr("evomerge.campaign.campaign.load_campaign", fail)
    found = call("check", tmp_path / "a.yaml")
    assert found.code == kind.exit_code
    assert found.out == ""
    assert found.err.splitlines() == [
        "error[E104] a.yaml:3:1 sed: unknown field; did you mean `seed`?",
        "error[E103] a.yaml base: missing field",
    ]
    found = call("check", tmp_path / "a.yaml", "--json")
    assert found.code == kind.exit_code
    assert [entry["code"] for entry in found.json["errors"]] == ["E104", "E103"]
    assert found.json["errors"][0]["line"] == 3


def test_exit_codes_are_those_of_the_epilog():
    codes = {kind.exit_code for kind in _all_errors()}
    assert codes == {1, 2, 3, 4, 5, 6, 7, 8, 9, 75, 130}
    for code in codes:
        assert f"{code} " in str(app.app.info.epilog)


def test_an_unexpected_exception_is_called_a_bug(monkeypatch):
    def fail(path, changes):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("evomerge.campaign.campaign.load_campaign", fail)
    monkeypatch.delenv("EVOMERGE_TRACEBACK", raising=False)
    found = call("check", "a.yaml")
    assert found.code == 1
    assert "ZeroDivisionError: surprise" in found.err
    assert "this is a bug" in found.err
    assert len(found.err.splitlines()) == 1
    monkeypatch.setenv("EVOMERGE_TRACEBACK", "1")
    found = call("check", "a.yaml")
    assert "Traceback (most recent call last)" in found.err


def test_an_interrupt_outside_a_run(monkeypatch):
    def fail(path, changes):
        raise KeyboardInterrupt

    monkeypatch.setattr("evomerge.campaign.campaign.load_campaign", fail)
    assert call("check", "a.yaml").code == 130


def test_a_reader_that_goes_away():
    command = f"{sys.executable} -m evomerge.cli --version | true"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert found.stderr == ""


def test_messages_cannot_steer_a_terminal():
    assert output.plain("a\x1b[31mb\x07\nc") == "a�[31mb�\nc"


def test_problem_json_leaves_out_what_is_unknown():
    assert output.problem_json(Problem("E101", "no such file", file="a")) == {
        "code": "E101",
        "wrong": "no such file",
        "file": "a",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1:00"), (187, "3:07"), (7387, "2:03:07")]
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (1500, "1.5 kB"), (12_340_000, "12.3 MB"), (5e12, "5.0 TB")]
)
def test_size(count, text):
    assert words.size(count) == text


def test_stop_signals_put_back_what_was_there():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals("again") as stop:
        assert stop() is None
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(stop(), errors.Stopped)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_stops_at_once():
    with StopSignals("go on with: x") as stop:
        signal.raise_signal(signal.SIGINT)
        assert isinstance(stop(), errors.Interrupted)
        assert "go on with: x" in str(stop())
        with pytest.raises(KeyboardInterrupt, match="asked twice"):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "words", [["list", "methods"], ["list", "methods", "--json"], ["list", "--json"]]
)
def test_an_output_that_takes_nothing_is_no_bug(words: list[str]) -> None:
    """`> FILE` on a full disk: one line on stderr, with `--json` too."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "evomerge.cli", *words]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    if words == ["list", "--json"]:
        assert found.returncode == 2
        assert "error[E500]: Missing argument" in found.stderr
        return
    assert found.returncode == 5
    wrong = "no room to write; No space left on device; free some space and run again"
    assert found.stderr == f"error[E403] stdout: {wrong}\n"


def test_what_is_wrong_with_a_command_is_told_in_one_line() -> None:
    found = call("list")
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert "Choose from: methods, evaluators, optimizers" in found.err


def test_a_group_of_verbs_shows_its_help_as_the_whole_does() -> None:
    found = call("study")
    assert (found.code, found.err) == (0, "")
    assert "\n  table " in found.out
    assert "completion" not in found.out
