"""Calibration: the text on which statistics of the experts are gathered, by path and content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError, Problem


@dataclass(frozen=True)
class Calibration:
    """A text file: every line with text is an item; a line `[3, 17, ...]` is one in token ids.

    `digest` is the SHA-256 (hex) of its content and stands for it in the recipe's digest; `path` only says
    where it lies today. An empty digest is that of whatever lies there.
    """

    path: str
    digest: str = ""

    def content(self) -> bytes:
        """What lies there.

        Raises:
            ConfigError: E101, the file cannot be read; E239, it is another one.
        """
        try:
            found = Path(self.path).read_bytes()
        except OSError as error:
            wrong, why = "cannot read the calibration text", error.strerror or str(error)
            raise ConfigError(Problem("E101", wrong, why, file=self.path)) from None
        digest = hashlib.sha256(found).hexdigest()
        if self.digest not in ("", digest):
            wrong = "the calibration text is not the one that is meant"
            said = f"its SHA-256 is {digest[:16]}, recorded was {self.digest[:16]}"
            raise ConfigError(Problem("E239", wrong, said, "restore it", self.path))
        return found

    def located(self, folder: Path) -> Calibration:
        """The same with an absolute path, where it was relative to a folder, and its digest.

        Raises:
            ConfigError: as `content`.
        """
        found = Calibration(str((folder / self.path).resolve()), self.digest)
        return Calibration(found.path, hashlib.sha256(found.content()).hexdigest())
