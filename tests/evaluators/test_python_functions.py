"""The shipped evaluator whose answers are programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.generation import Generation
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import LmEvalDeclaration, load_evaluator
from evomerge.evaluators.lm_eval_tasks import LmEvalTasks
from evomerge.objectives.scores import SPLITS, Split
from tests.evaluators.test_lm_eval_tasks import stock

FILE = Path(__file__).parents[2] / "evaluators" / "python_functions" / "functions.yaml"


@pytest.fixture(scope="module")
def declaration() -> LmEvalDeclaration:
    return load_evaluator(FILE)


def test_it_is_refused_without_the_flag(declaration: LmEvalDeclaration) -> None:
    with pytest.raises(ConfigError, match=r"E126.*unsafe_code: true.*passes") as caught:
        open_evaluator(declaration)
    assert "allow it with --allow-task-code" in str(caught.value)


class Writer:
    """Writes the right answer to the prompts it knows and a wrong one to the others."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Generation]:
        return [
            Generation(self.known.get(prompt, "    return None"), 5, False) for prompt, _ in requests
        ]


def test_right_functions_pass_and_wrong_ones_do_not(
    declaration: LmEvalDeclaration, subject: Subject
) -> None:
    docs = LmEvalTasks(declaration)._split("selection").docs
    known = {doc["prompt"]: doc["solution"] for doc in docs[:7]}
    known[docs[7]["prompt"]] = "    import os; os._exit(0)"
    evaluator = LmEvalTasks(declaration, lambda _: Writer(known))
    scores = evaluator.evaluate(subject, "selection")
    assert len(docs) == 10
    smooth = scores.smooth["functions.pass_at_1"]
    assert smooth.shape == (10,)
    assert (smooth < 0).all(), "log-likelihoods of the solutions, per token"
    assert scores.metrics["functions.pass_at_1"].value == pytest.approx(0.7)
    assert sorted(scores.items["functions.pass_at_1"]) == [0.0] * 3 + [1.0] * 7


@pytest.mark.parametrize("split", SPLITS)
def test_targets_are_solutions_and_may_be_learned(
    declaration: LmEvalDeclaration, subject: Subject, split: Split
) -> None:
    evaluator = LmEvalTasks(declaration)
    docs = evaluator._split(split).docs
    targets = {doc["prompt"]: evaluator._split(split).task.doc_to_target(doc) for doc in docs}
    scores = LmEvalTasks(declaration, lambda _: Writer(targets)).evaluate(subject, split)
    assert scores.metrics["functions.pass_at_1"].value == 1.0
    assert evaluator.loss_directions(split) == {"functions.pass_at_1": True}
    assert declaration.learnable() == {"functions.pass_at_1"}


def test_stock_lm_eval_scores_it_alike(declaration: LmEvalDeclaration, subject: Subject) -> None:
    evaluator = open_evaluator(declaration, allow_code=True)
    scores = evaluator.evaluate(subject, "selection")
    expected = stock(
        FILE, subject, "python_functions_selection", bootstrap_iters=0, confirm_run_unsafe_code=True
    )["results"]["python_functions_selection"]
    assert scores.metrics["functions.pass_at_1"].value == expected["pass_at_1,none"]
    assert scores.metrics["functions.tokens"].items == 10
