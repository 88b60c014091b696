"""What `verify` found."""

from __future__ import annotations

from dataclasses import dataclass, field

from evomerge.errors import Problem

CODE = "E510"
"""A campaign folder contradicts itself."""


@dataclass
class Verification:
    """Faults found, and how many of each thing were looked at."""

    problems: list[Problem] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    file: str = ""

    def fault(self, wrong: str, found: str = "", where: str = "") -> None:
        """Note that an invariant does not hold."""
        todo = "report this, unless a file was edited or evomerge changed since"
        self.problems.append(Problem(CODE, wrong, found, todo, self.file, field=where))

    def count(self, what: str, number: int) -> None:
        """Note how many things were looked at."""
        self.checked[what] = self.checked.get(what, 0) + number
