"""Templates of tasks: what they may reach, and how often they are compiled."""

from __future__ import annotations

import lm_eval.utils
import pytest
from jinja2.exceptions import SecurityError

from evomerge.evaluators.templates import MOST_KEPT, sandbox_templates

TEMPLATE = "{{question.strip()}}\nA:"


@pytest.fixture(autouse=True)
def _sandboxed() -> None:
    sandbox_templates()


def test_a_template_is_compiled_once_for_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    environment = lm_eval.utils.env
    plain = environment.compile

    def counted(source: object, *rest: object, **options: object) -> object:
        compiled.append(source)
        return plain(source, *rest, **options)

    monkeypatch.setattr(environment, "compile", counted)
    template = TEMPLATE + " of a test"
    texts = [lm_eval.utils.apply_template(template, {"question": f" {n} "}) for n in range(5)]
    assert texts == [f"{n}\nA: of a test" for n in range(5)]
    assert compiled == [template]


def test_as_many_as_a_task_may_have_are_kept_and_no_more() -> None:
    for number in range(2 * MOST_KEPT):
        text = lm_eval.utils.apply_template(TEMPLATE + str(number), {"question": "q"})
        assert text == f"q\nA:{number}"
    assert lm_eval.utils.env._compiled.cache_info().currsize == MOST_KEPT


@pytest.mark.parametrize("times", [1, 2])
def test_a_template_reaches_no_code(times: int) -> None:
    for _ in range(times):
        with pytest.raises(SecurityError, match="access to attribute '__class__'"):
            lm_eval.utils.apply_template("{{question.__class__.__mro__}}", {"question": "q"})
