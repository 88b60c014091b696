"""Troubleshooting by error code."""

from __future__ import annotations

import re

from docsite.markdown import capital, table
from evomerge import errors
from evomerge.errors import CODES, RANGES


def errors_page() -> str:
    """Every code with what it means and what helps, and the exit codes."""
    exits = re.findall(r"(\w+) \[(\d+)\] +(.+)", errors.__doc__ or "")
    text = [
        "# Troubleshooting by error code",
        "An error is one line: `error[CODE] file:line:column field: what is wrong; found; to do`.",
        "The code is stable. `evomerge explain CODE` says what stands here; `--json` gives errors as data.",
    ]
    for start, about in RANGES.items():
        rows = [
            [f"`{code}`", capital(each.meaning), capital(each.helps)]
            for code, each in CODES.items()
            if code.startswith(start)
        ]
        text += [f"## {start}xx: {about}", table(["code", "means", "what helps"], rows)]
    text += [
        "## Exit codes",
        table(
            ["code", "of", "means"],
            [["0", "", "Done"], *([code, f"`{name}`", capital(about)] for name, code, about in exits)],
        ),
        "1 is a bug, or a failure without a class of its own. After 75 and 130 the same command goes on "
        "where it was.",
    ]
    return "\n\n".join(text)
