"""Task templates in a sandbox: lm-eval renders those of a task file with all of Python within reach.

A Jinja template can walk from any value to `os.system` by attributes with underscores. `check` names the
code a task file imports (`!function`); a template is taken for text by everybody who reads it, so it must
not be able to run anything at all.
"""

from __future__ import annotations

import lm_eval.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment


def sandbox_templates() -> None:
    """Make lm-eval render templates in Jinja's sandbox, with the settings and filters it has set.

    A template that reaches for more fails with `jinja2.exceptions.SecurityError`.
    """
    plain = lm_eval.utils.env
    if isinstance(plain, ImmutableSandboxedEnvironment):
        return
    boxed = ImmutableSandboxedEnvironment(
        loader=plain.loader,
        undefined=plain.undefined,
        keep_trailing_newline=plain.keep_trailing_newline,
    )
    boxed.filters.update(plain.filters)
    lm_eval.utils.env = boxed
