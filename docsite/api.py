"""The Python API: what `evomerge` exports, from its signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import evomerge


def api_page() -> str:
    """Functions and classes of `import evomerge`, with the public methods of each class."""
    text = [
        "# Python API",
        "`import evomerge as em`; nothing heavy is loaded before it is used. "
        "[From Python](../python.md) shows it at work.",
    ]
    for name, (module, attribute) in sorted(evomerge._PUBLIC.items()):
        # Not `evomerge.NAME`: once it is loaded, the room `merge` stands there, called like the function.
        thing = getattr(importlib.import_module(f"evomerge.{module}"), attribute)
        if inspect.isclass(thing):
            text += _class(name, thing)
        elif callable(thing):
            text += [f"## {name}", _signature(name, thing), _prose(thing.__doc__)]
    return "\n\n".join(text)


def _class(name: str, kind: type) -> list[str]:
    text = [f"## {name}", _prose(kind.__doc__)]
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            text += [f"### {name}.{member}", _prose(value.__doc__)]
        elif callable(value) or isinstance(value, classmethod | staticmethod):
            function = getattr(kind, member)
            if inspect.getdoc(function) and inspect.isroutine(function):
                text += [
                    f"### {name}.{member}",
                    _signature(f"{name}.{member}", function),
                    _prose(function.__doc__),
                ]
    return text


def _signature(name: str, thing: Any) -> str:
    signature = inspect.signature(thing)
    own = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    shown = str(signature.replace(parameters=own)).replace("'", "")
    if len(shown) > 90:
        inside = ",\n    ".join(str(p.replace()).replace("'", "") for p in own)
        star = [i for i, p in enumerate(own) if p.kind is p.KEYWORD_ONLY]
        parts = inside.split(",\n    ")
        if star and len(parts) == len(own) and not any(p.kind is p.VAR_POSITIONAL for p in own):
            parts.insert(star[0], "*")
        end = signature.return_annotation
        returned = "" if end is inspect.Signature.empty else f" -> {end}".replace("'", "")
        shown = "(\n    " + ",\n    ".join(parts) + ",\n)" + returned
    return f"```\n{name}{shown}\n```"


def _prose(doc: str | None) -> str:
    """A docstring of Google's form as Markdown: sections as bold words, entries as lists."""
    lines: list[str] = []
    listed = False
    for line in inspect.cleandoc(doc or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            lines += ["", f"**{line[:-1]}**", ""]
            listed = line not in ("Returns:", "Yields:")
        elif listed and (entry := re.fullmatch(r"    ([\w, *]+): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif line.startswith("    ") and lines and lines[-1].strip():
            lines[-1] += " " + line.strip()
        else:
            listed = listed and line.startswith("    ")
            lines.append(line.strip() if listed or line.startswith("    ") else line)
    return "\n".join(lines).strip()
