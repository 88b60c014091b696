"""The table of a study: what each arm came to, as means over the seeds with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from evomerge.errors import Problem, UsageError
from evomerge.front.folder import open_campaign_folder
from evomerge.front.tables import shown_value
from evomerge.ledger.history import History
from evomerge.objectives.measures import mean_score, worst_score
from evomerge.objectives.objective import Scaling
from evomerge.objectives.pareto import hypervolume
from evomerge.run.standing import phase_of
from evomerge.run.study.plan import RUNS_FOLDER, read_study

LEVEL = 0.95

MEASURES = ("hypervolume", "best_mean", "best_worst", "evaluations", "seconds", "failures")
COLUMNS = ("hypervolume", "best mean", "best worst", "evaluations", "seconds", "failed")
_SCORE = {"best_mean": "mean", "best_worst": "worst"}
"""What `shown_value` calls them."""

TABLE_SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One campaign. Scores are those of the split that decides (`selection` at the end).

    Attributes:
        arm: and `seed`, which of the study's it is.
        phase: as `status` says; None where it has not begun.
        split: whose scores these are; None before there is a front.
        hypervolume: of the front, by the scaling of the study's first campaign.
        best_mean: highest mean of the objectives among the members; None where they are not alike.
        best_worst: highest of lowest objectives, likewise.
        evaluations: of the budget, repeats and baselines apart.
        seconds: of workers, baselines and rescoring included, for whatever was taken from shared results too.
        failures: candidates without scores.
    """

    arm: str
    seed: int
    phase: str | None
    split: str | None = None
    hypervolume: float | None = None
    best_mean: float | None = None
    best_worst: float | None = None
    evaluations: int = 0
    seconds: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds with Student's 95 % interval, which one seed does not give."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class ArmSummary:
    """An arm over the seeds that have come to their end.

    Attributes:
        arm: its name.
        changes: as for `--set`.
        done: campaigns at their end, of `seeds`.
        measures: by name; what has no value is left out.
        gain: hypervolume minus that of the first arm, by the seeds that both have; None for the first.
    """

    arm: str
    changes: tuple[str, ...]
    done: int
    seeds: int
    measures: Mapping[str, Estimate]
    gain: Estimate | None


@dataclass(frozen=True)
class StudyTable:
    """All arms, and all campaigns behind them."""

    file: str
    arms: tuple[ArmSummary, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"schema": TABLE_SCHEMA, "level": LEVEL, **asdict(self)}


def study_table(directory: Path) -> StudyTable:
    """What the campaigns of a study's folder have come to, also while they run.

    Raises:
        UsageError: E509, the folder is no study's.
        LedgerDamaged: a ledger cannot be read.
    """
    study = read_study(directory)
    rows: list[Row] = []
    scaling: Scaling | None = None
    for arm in study.arms:
        for seed in study.seeds:
            row, own = _row(directory / RUNS_FOLDER / f"{arm}-{seed}", arm, seed, scaling)
            rows.append(row)
            scaling = scaling or own
    first = next(iter(study.arms))
    arms = [_summary(arm, tuple(words), first, rows) for arm, words in study.arms.items()]
    return StudyTable(study.file, tuple(arms), tuple(rows))


def _row(folder: Path, arm: str, seed: int, scaling: Scaling | None) -> tuple[Row, Scaling | None]:
    """A campaign's row, and the scaling to take from it."""
    try:
        opened = open_campaign_folder(folder)
    except UsageError:  # it has no ledger, or was killed while it wrote its first record
        return Row(arm, seed, None), None
    history = opened.history
    row = Row(
        arm,
        seed,
        phase_of(history),
        evaluations=history.budget_used,
        seconds=round(_seconds(history), 3),
        failures=history.failed_kinds.total(),
    )
    if history.scaling is None:
        return row, None
    front = opened.front()
    objectives = front.objectives
    metrics = [member.metrics[front.split] for member in front.members]
    values = [[o.sign * each[o.metric].value for o in objectives] for each in metrics]
    array = np.array(values, dtype=np.float64).reshape(len(values), len(objectives))
    found = asdict(row) | {
        "split": front.split,
        "hypervolume": hypervolume((scaling or history.scaling).scale(array)),
        "best_mean": _highest(mean_score(objectives, each) for each in metrics),
        "best_worst": _highest(worst_score(objectives, each) for each in metrics),
    }
    return Row(**found), history.scaling


def _highest(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _seconds(history: History) -> float:
    """Worker seconds of all that was measured, each merge once."""
    total = 0.0
    for candidate in history.candidates.values():
        for evaluation in (*candidate.evaluations.values(), candidate.raced):
            if evaluation is not None and evaluation.same_as is None:
                total += sum(evaluation.seconds.values())
    return total + sum(sum(s.seconds.values()) for batch in history.slopes for s in batch.values())


def _summary(arm: str, changes: tuple[str, ...], first: str, rows: Sequence[Row]) -> ArmSummary:
    own = [row for row in rows if row.arm == arm]
    done = [row for row in own if row.phase == "done"]
    measures = {}
    for name in MEASURES:
        values = [getattr(row, name) for row in done]
        if values and None not in values:
            measures[name] = estimate(values)
    gain = None
    if arm != first:
        before = {row.seed: row for row in rows if row.arm == first and row.phase == "done"}
        pairs = [(row.hypervolume, before[row.seed].hypervolume) for row in done if row.seed in before]
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        gain = estimate(differences) if differences else None
    return ArmSummary(arm, changes, len(done), len(own), measures, gain)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval: mean ± t(0.975, n - 1) s / sqrt(n), s with n - 1 in its denominator."""
    numbers = np.array(values, dtype=np.float64)
    mean, n = float(numbers.mean()), len(numbers)
    if n < 2:
        return Estimate(mean, None, None, n)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * float(numbers.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def cells(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table in words; columns that no arm has a value for are left out."""
    kept = [
        (name, title)
        for name, title in zip(MEASURES, COLUMNS, strict=True)
        if any(name in arm.measures for arm in table.arms)
    ]
    several = len(table.arms) > 1
    head = ["arm", "done", *(title for _, title in kept)]
    if several:
        head.insert(3, f"gain on {table.arms[0].arm}")
    lines = []
    for arm in table.arms:
        line = [arm.arm, f"{arm.done} of {arm.seeds}"]
        line += [_words(name, arm.measures.get(name)) for name, _ in kept]
        if several:
            line.insert(3, "" if arm.gain is None else _words("gain", arm.gain))
        lines.append(line)
    return head, lines


def markdown(table: StudyTable) -> str:
    """The table in Markdown."""
    head, lines = cells(table)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def _words(name: str, found: Estimate | None) -> str:
    if found is None:
        return ""
    half = None if found.high is None else found.high - found.mean
    if name in _SCORE:
        return shown_value(_SCORE[name], found.mean) + ("" if half is None else f" ± {100 * half:.1f}")
    if name in ("hypervolume", "gain"):
        sign = "+" if name == "gain" else ""
        return f"{found.mean:{sign}.4f}" + ("" if half is None else f" ± {half:.4f}")
    return f"{found.mean:.4g}" + ("" if half is None else f" ± {half:.2g}")


def refuse_empty(table: StudyTable, directory: Path) -> None:
    """A study of which no campaign has begun has no table.

    Raises:
        UsageError: E509.
    """
    if all(row.phase is None for row in table.rows):
        wrong = "no campaign of this study has begun yet"
        raise UsageError(Problem("E509", wrong, "", "see `evomerge study run --help`", str(directory)))
