"""Kinds of optimizers and their settings: what a file may say, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.optimizers.options import Between, read_settings
from evomerge.optimizers.settings import Nsga2Settings, RandomSettings
from evomerge.testing.optimizers import OBJECTIVES, example_genes


@dataclass(frozen=True)
class OddSettings:
    """One field of each form that the kinds of this package do not use."""

    rounds: Annotated[int, Between(1, 9)] = 3
    greedy: bool = False
    label: str = ""
    scale: float = 1.0


def test_settings_have_the_defaults_of_their_class_and_what_a_file_says() -> None:
    assert optimizer_settings("nsga2", {}) == Nsga2Settings()
    found = optimizer_settings("nsga2", {"eta_mutation": 5, "start": "random"})
    assert found == Nsga2Settings(start="random", eta_mutation=5.0)
    assert isinstance(found.eta_mutation, float)
    assert optimizer_settings("random", {"structure": "global"}) == RandomSettings("global")
    odd = {"rounds": 9, "greedy": True, "label": "x", "scale": 2}
    assert read_settings("odd", OddSettings, odd) == OddSettings(9, True, "x", 2.0)


def test_unknown_kinds_and_wrong_options_are_refused_all_together() -> None:
    with pytest.raises(
        ConfigError, match=r"E108.*kind: must be one of nsga2, surrogate, .*; found 'cmaes'"
    ):
        make_optimizer("cmaes", example_genes(), OBJECTIVES, population=4, seed=0)
    with pytest.raises(ConfigError, match=r"E108.*structure: must be one of independent, global"):
        optimizer_settings("random", {"structure": "layers"})
    with pytest.raises(ConfigError, match="E108") as caught:
        optimizer_settings("nsga2", {"eta_mutation": True, "star": "random"})
    assert [problem.code for problem in caught.value.problems] == ["E108", "E104"]
    assert "options of nsga2: start, operators" in str(caught.value)
    genes = example_genes()
    with pytest.raises(TypeError, match="random takes RandomSettings, not Nsga2Settings"):
        make_optimizer("random", genes, OBJECTIVES, population=4, seed=0, settings=Nsga2Settings())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rounds": 10}, "a whole number from 1 to 9; found 10"),
        ({"rounds": 2.5}, "a whole number from 1 to 9; found 2.5"),
        ({"greedy": 1}, "true or false; found 1"),
        ({"label": 3}, "text; found 3"),
        ({"scale": "x"}, "a number; found 'x'"),
        ({"scale": float("inf")}, "a number; found inf"),
    ],
)
def test_every_form_of_field_says_what_it_takes(given: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=f"E108.*must be {words}"):
        read_settings("odd", OddSettings, given)
