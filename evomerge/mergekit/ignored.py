"""What mergekit would ignore: a slip of the pen near a name that means something, or a habit to warn of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from evomerge.mergekit.methods import SPOKEN

_LIKENESS = 0.8
"""Least ratio of `difflib` at which a name counts as another, misspelt: `densty`, but not `license`."""

_AT_THE_TOP = ("dtype", "out_dtype", "merge_method", "base_model", "tokenizer_source", "chat_template")
_PARAMETERS = frozenset(p.name for method in SPOKEN.values() for p in method.parameters)


def misspelt(name: object, known: Iterable[str]) -> str:
    """The known name that an unknown one is a slip for; empty if it is like none."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=_LIKENESS)
    return near[0] if near else ""


def advice(name: object, where: str) -> str:
    """What to say of a field that mergekit ignores, and so do we.

    Args:
        name: of the field.
        where: `top`, `model` (a model or a slice's source), `slice`, `parameters` or something else.
    """
    if name == "revision":
        return "mergekit takes the default revision; write `ORG/NAME@REVISION` if this one is meant"
    if name == "override_architecture":
        return "tensors are found by their names here"
    if where != "top" and name in _AT_THE_TOP:
        return f"it counts at the top of the file only; move it there if `{name}` is meant"
    if where != "parameters" and name in _PARAMETERS:
        return f"it counts under `parameters` only; move it there if `{name}` is meant"
    return ""
