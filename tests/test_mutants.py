"""Every mutant can still be made: its text stands once in its file, and its tests exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.mutants.mutant import MUTANTS, REPOSITORY, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant) -> None:
    sound = mutant.source().read_text(encoding="utf-8")
    changed = mutant.of(sound)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(sound)), "it is no change"
    assert mutant.tests
    for file, _, name in (test.partition("::") for test in mutant.tests):
        code = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", code, re.MULTILINE), f"{file} has no {name}"


def test_names_are_given_once() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_text_that_is_gone_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"gone: evomerge/failpoint\.py holds its text 0 times, not once"
    ):
        Mutant("gone", "failpoint.py", "not there", "", ("test_failpoint.py",), "").of("here")
