"""What the fields of a class mean, as its docstring says: the entries under `Attributes:`."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"    (?P<names>\w+(?:, \w+)*): (?P<text>.*)")


def attributes_of(kind: type) -> dict[str, str]:
    """Field name to what its class, or the nearest of its parents, says of it; line breaks become blanks.

    Names that share an entry (`look_from, look_every: ...`) share its text.
    """
    found: dict[str, str] = {}
    for each in kind.__mro__:
        for name, text in _entries(each.__dict__.get("__doc__") or "").items():
            found.setdefault(name, text)
    return found


def summary_of(kind: type) -> str:
    """What a class says of itself before `Attributes:`; each paragraph on one line."""
    before = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")[0]
    return "\n\n".join(" ".join(part.split()) for part in before.strip().split("\n\n"))


def _entries(doc: str) -> dict[str, str]:
    listed = inspect.cleandoc(doc).partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in listed.splitlines():
        if not line.startswith("    "):
            break
        if match := _ENTRY.fullmatch(line):
            names = match["names"].split(", ")
            found |= dict.fromkeys(names, match["text"])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
