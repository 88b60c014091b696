"""Task templates in a sandbox: lm-eval renders those of a task file with all of Python within reach.

A Jinja template can walk from any value to `os.system` by attributes with underscores. `check` names the
code a task file imports (`!function`); a template is taken for text by everybody who reads it, so it must
not be able to run anything at all.
"""

from __future__ import annotations

import functools
from collections.abc import MutableMapping
from typing import Any

import lm_eval.utils
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_KEPT = 256
"""Compiled templates that are kept; a task has about four."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which compiles a template once: lm-eval gives it the same ones for every document."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._compiled = functools.lru_cache(MOST_KEPT)(super().from_string)

    def from_string(
        self,
        source: Any,
        globals: MutableMapping[str, Any] | None = None,
        template_class: type[Template] | None = None,
    ) -> Template:
        if globals is None and template_class is None and isinstance(source, str):
            return self._compiled(source)
        return super().from_string(source, globals, template_class)


def sandbox_templates() -> None:
    """Make lm-eval render templates in Jinja's sandbox, with the settings and filters it has set.

    A template that reaches for more fails with `jinja2.exceptions.SecurityError`.
    """
    plain = lm_eval.utils.env
    if isinstance(plain, ImmutableSandboxedEnvironment):
        return
    boxed = _Sandbox(
        loader=plain.loader,
        undefined=plain.undefined,
        keep_trailing_newline=plain.keep_trailing_newline,
    )
    boxed.filters.update(plain.filters)
    lm_eval.utils.env = boxed
