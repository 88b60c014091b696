"""What can go wrong, and which exit code each fault has.

The tree (exit code in brackets)::

    EvomergeError [1]
    ├── UsageError [2]             an id, pick or option that does not fit the campaign
    ├── ConfigError [3]            a fault in a YAML or JSON file a person wrote
    ├── CheckpointError [4]        a model folder that cannot be merged
    ├── EnvironmentFault [5]       memory, disk, devices, Ray, missing packages
    ├── CampaignInUse [6]          another driver holds the campaign folder
    ├── LedgerDamaged [7]          the ledger fails its checksums or its replay
    ├── TooManyFailures [8]        the breaker stopped a campaign
    ├── ExportCheckFailed [9]      a written checkpoint is not what was scored
    ├── Stopped [75]               asked to stop (SIGTERM); resumable
    └── Interrupted [130]          Ctrl-C; resumable

    CandidateError                 one merge failed; never leaves the worker (no exit code)

Every error a person can cause carries `Problem` records; all of one run are shown together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault: what is wrong, what was found, what to do, and where.

    `code` is stable (`E1xx` config, `E2xx` checkpoint, `E4xx` environment, `E5xx` campaign state,
    `E6xx` export). `file`, `line`, `column` are 1-based and 0 where unknown; `field` is a dotted path
    into the file, or a tensor name.
    """

    code: str
    wrong: str
    found: str = ""
    todo: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    field: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}:{self.column}"
        head = " ".join(part for part in (f"error[{self.code}]", place, self.field) if part)
        return f"{head}: {self.words}"

    @property
    def words(self) -> str:
        """What is wrong, what was found and what to do, without code and place."""
        return "; ".join(part for part in (self.wrong, self.found, self.todo) if part)

    @property
    def as_warning(self) -> str:
        """The same line, of what stops nothing."""
        return str(self).replace("error[", "warning[", 1)


class EvomergeError(Exception):
    """Root of all errors evomerge raises on purpose; carries one or more problems."""

    exit_code = 1

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            self.problems: tuple[Problem, ...] = ()
            super().__init__(problems)
            return
        listed = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.problems = listed
        super().__init__("\n".join(str(problem) for problem in listed))


class UsageError(EvomergeError):
    """An id, a pick or an option that does not fit."""

    exit_code = 2


class ConfigError(EvomergeError):
    """A file a person wrote has faults."""

    exit_code = 3


class CheckpointError(EvomergeError):
    """A model folder or adapter cannot be used."""

    exit_code = 4


class EnvironmentFault(EvomergeError):
    """The machine or cluster cannot do what was asked."""

    exit_code = 5


class CampaignInUse(EvomergeError):
    """Another driver holds the campaign folder."""

    exit_code = 6


class LedgerDamaged(EvomergeError):
    """The ledger fails a checksum before its tail, or its replay disagrees."""

    exit_code = 7


class TooManyFailures(EvomergeError):
    """Candidates fail so often, or so alike, that going on is pointless."""

    exit_code = 8


class ExportCheckFailed(EvomergeError):
    """A written checkpoint did not pass its check; nothing was published."""

    exit_code = 9


class Stopped(EvomergeError):
    """A clean stop was asked for (SIGTERM); the campaign can be resumed."""

    exit_code = 75


class Interrupted(EvomergeError):
    """Ctrl-C; the campaign can be resumed."""

    exit_code = 130


class CandidateError(Exception):
    """A candidate cannot be scored (non-finite weights or logits, say); the search goes on.

    `kind` is a short stable word such as `nonfinite_weights`; it is what the ledger keeps. `tensor` is where
    it shows.
    """

    def __init__(self, kind: str, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.tensor = tensor
