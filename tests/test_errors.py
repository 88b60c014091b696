"""Problems in words, exit codes, and the tree that the docstring draws."""

import re

import pytest

from evomerge import errors
from evomerge.errors import CandidateError, ConfigError, EvomergeError, Problem

EXIT_CODES = {
    "EvomergeError": 1,
    "UsageError": 2,
    "ConfigError": 3,
    "CheckpointError": 4,
    "EnvironmentFault": 5,
    "CampaignInUse": 6,
    "LedgerDamaged": 7,
    "TooManyFailures": 8,
    "ExportCheckFailed": 9,
    "Stopped": 75,
    "Interrupted": 130,
}


def test_exit_codes_are_those_of_the_design_and_of_the_docstring() -> None:
    kinds = {EvomergeError, *EvomergeError.__subclasses__()}
    assert {kind.__name__: kind.exit_code for kind in kinds} == EXIT_CODES
    drawn = dict(re.findall(r"(\w+) \[(\d+)\]", errors.__doc__ or ""))
    assert {name: int(code) for name, code in drawn.items()} == EXIT_CODES


def test_a_candidates_error_has_no_exit_code() -> None:
    error = CandidateError("nonfinite_weights", "layer 3")
    assert not isinstance(error, EvomergeError)
    assert (error.kind, str(error)) == ("nonfinite_weights", "layer 3")


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (
            Problem("E104", "unknown field", "found 1", "remove it", "a.yaml", 3, 5, "x.y"),
            "error[E104] a.yaml:3:5 x.y: unknown field; found 1; remove it",
        ),
        (Problem("E101", "no such file", file="a.yaml"), "error[E101] a.yaml: no such file"),
        (Problem("E507", "the front is empty"), "error[E507]: the front is empty"),
    ],
)
def test_a_problem_reads_as_one_line(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_an_error_shows_all_its_problems() -> None:
    error = ConfigError([Problem("E104", "one"), Problem("E105", "two")])
    assert str(error) == "error[E104]: one\nerror[E105]: two"
    assert [problem.code for problem in error.problems] == ["E104", "E105"]
    assert ConfigError(Problem("E104", "one")).problems == (Problem("E104", "one"),)
    assert EvomergeError("plain words").problems == ()
