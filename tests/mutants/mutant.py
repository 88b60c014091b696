"""One mutant: a text that stands once in a file, and what is put in its place."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """A fault in one file of the package.

    Attributes:
        name: short, the same for ever.
        file: below `evomerge/`.
        text: stands exactly once in the file.
        instead: what stands there in the mutant.
        tests: files below `tests/`, or `FILE::TEST`; at least one test must fail.
        note: what goes wrong for whoever runs the mutant.
    """

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]
    note: str

    def source(self, root: Path = REPOSITORY) -> Path:
        """The file that is changed."""
        return root / "evomerge" / self.file

    def of(self, code: str) -> str:
        """The file's text with the fault in it.

        Raises:
            ValueError: if the text to replace does not stand there exactly once.
        """
        found = code.count(self.text)
        if found != 1:
            raise ValueError(
                f"{self.name}: evomerge/{self.file} holds its text {found} times, not once"
            )
        return code.replace(self.text, self.instead)


def read_mutants() -> tuple[Mutant, ...]:
    """All mutants, as `mutants.toml` lists them."""
    data = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text(encoding="utf-8"))
    return tuple(Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in data["mutant"])


MUTANTS = read_mutants()
