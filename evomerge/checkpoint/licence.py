"""What licences models state, in the heads of their cards, and what a merge of them can state. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CARD_FILE = "README.md"

_HEAD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\n---[ \t]*\r?$", re.S | re.M)
_FIELD = re.compile(r"^(license|license_name|license_link):[ \t]*(.*(?:\n[ \t]*- .*)*)", re.M)
_MAX_CARD = 1 << 18
"""Bytes of a card that are read: its head comes first."""


@dataclass(frozen=True)
class Licence:
    """A licence by the hub's name for it (`apache-2.0`, `llama3`, `other`); without one `id` is empty.

    `name` and `link` say which one `other` is.
    """

    id: str = ""
    name: str = ""
    link: str = ""

    def __str__(self) -> str:
        return self.id + (f" ({self.name})" if self.name else "") or "none stated"

    @property
    def forbids_derivatives(self) -> bool:
        """Whether a merge may not be passed on (the Creative Commons' ND)."""
        return "nd" in self.id.split("-")


def read_licence(folder: Path) -> Licence:
    """The licence that a model folder's card states in its head; a list of several is `other`."""
    try:
        with (folder / CARD_FILE).open("rb") as file:
            text = file.read(_MAX_CARD).decode("utf-8", errors="replace")
    except OSError:
        return Licence()
    head = _HEAD.match(text)
    found = {field: _values(value) for field, value in _FIELD.findall(head[1] if head else "")}
    stated = found.get("license", [])
    if not stated:
        return Licence()
    if len(stated) > 1:
        return Licence("other", " and ".join(stated))
    known = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", stated[0].lower())
    name = " ".join(found.get("license_name", []))
    link = " ".join(found.get("license_link", []))
    if not known:
        return Licence("other", stated[0], link)
    return Licence(stated[0].lower(), name, link)


def joined_licence(stated: Mapping[str, Licence]) -> tuple[Licence, tuple[str, ...]]:
    """What a merge can state, from what the models in it state by name, and what a person must look at.

    The one licence that is stated; `other` where there are several. Nothing here is advice on law.
    """
    known = {name: licence for name, licence in stated.items() if licence.id}
    silent = [name for name, licence in stated.items() if not licence.id]
    warnings = [
        f"the licence of {name}, {licence}, allows no derivatives: such a merge may not be passed on"
        for name, licence in known.items()
        if licence.forbids_derivatives
    ]
    different = list(dict.fromkeys(known.values()))
    if not different:
        return Licence(), ()
    told = ", ".join(f"{name} {licence}" for name, licence in known.items())
    if len(different) > 1:
        warnings.append(
            f"licences differ: {told}; the card says `other`: decide what holds for the merge"
        )
        return Licence("other", "see the sources"), tuple(warnings)
    if silent:
        warnings.append(
            f"licence: {told}; {', '.join(silent)} stated none; the card says {different[0].id}"
        )
    return different[0], tuple(warnings)


def _values(text: str) -> list[str]:
    """The entries of a plain YAML value or list, without quotes and comments."""
    inner = text.strip()
    if inner.startswith("["):
        lines = inner.strip("[]").split(",")
    else:
        lines = [line.strip().removeprefix("- ") for line in inner.splitlines()]
    plain = [re.sub(r"\s+#.*$", "", line).strip().strip("\"'") for line in lines]
    return [value for value in plain if value and value not in ("null", "~")]
