from __future__ import annotations

from evomerge.optimizers.builtin import KINDS
from evomerge.recipe.catalogue import METHODS
from tests.cli.terminal import call


def test_methods_with_coefficients_and_paper():
    found = call("list", "methods")
    assert found.code == 0
    lines = {line.split()[0]: line for line in found.out.splitlines()}
    assert set(lines) == set(METHODS)
    assert "weight 0..1.5, density 0.05..1" in lines["ties"]
    assert "arXiv:2306.01708" in lines["ties"]
    listed = call("list", "methods", "--json").json["methods"]
    assert [entry["name"] for entry in listed] == list(METHODS)
    assert listed[0]["coefficients"][0]["meaning"]


def test_optimizers_and_evaluators():
    assert [line.split()[0] for line in call("list", "optimizers").out.splitlines()] == list(KINDS)
    assert call("list", "evaluators").out.startswith("lm_eval ")
    assert call("list", "evaluators", "--json").json["evaluators"][0]["kind"] == "lm_eval"
