"""An Optuna study of a campaign, for optuna-dashboard: derived from the ledger, never read back.

Every candidate is a trial: genes are its parameters, metrics on search items its values, bounds its
constraints; its id, recipe digest, failure or who beat it, and its scores on all splits are user attributes.
One without a result is a running trial. Baselines have no genes and are left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.errors import Problem, UsageError
from evomerge.files.storage import cannot_write, written_whole
from evomerge.ledger.bounds import bounds_of
from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives.objective import Objective
from evomerge.optimizers.optuna_samplers import distributions
from evomerge.search_space import Gene

SQLITE, JOURNAL = (".db", ".sqlite", ".sqlite3"), (".log", ".journal")
"""Endings of the two kinds of file."""

_BEGINS = {SQLITE: b"SQLite format 3", JOURNAL: b'{"op_code"'}


def write_study(
    history: History, genes: Sequence[Gene], objectives: Sequence[Objective], file: Path
) -> int:
    """Write a study of all candidates asked so far; gives their number. Another study there is replaced.

    Args:
        history: of the campaign; its name is the study's.
        genes: in genome order.
        objectives: in campaign order; directions and values are those of the metrics.
        file: an SQLite file, or a journal if it ends in `.log` or `.journal`.

    Raises:
        UsageError: E500, for another ending, and for a file that is no study.
        EnvironmentFault: E403 no room, E408 cannot be written; what was there is as it was.
    """
    kind = next((kind for kind in (SQLITE, JOURNAL) if file.suffix in kind), None)
    if kind is None:
        wrong, endings = "a study is an SQLite file or a journal", ", ".join((*SQLITE, *JOURNAL))
        raise UsageError(Problem("E500", wrong, f"found {file}", f"end its name in one of {endings}"))
    try:
        is_other = file.exists() and not file.read_bytes().startswith(_BEGINS[kind])
    except OSError as error:
        raise cannot_write(file, error) from error
    if is_other:
        raise UsageError(
            Problem("E500", "there is a file that is no study", f"found {file}", "move it")
        )
    with written_whole(file) as part:
        part.touch()
        try:
            trials = _trials(history, genes, objectives)
            _fill(_storage(part, kind), history.stated.name, objectives, trials)
        finally:
            Path(f"{part}.lock").unlink(missing_ok=True)
    return len(trials)


def address(file: Path) -> str:
    """What `optuna-dashboard` is to be given: it takes a journal by its name, SQLite by a URL alone."""
    return f"sqlite:///{file}" if file.suffix in SQLITE else str(file)


def _storage(part: Path, kind: tuple[str, ...]) -> BaseStorage:
    if kind is SQLITE:
        return RDBStorage(f"sqlite:///{part.resolve()}")
    return JournalStorage(JournalFileBackend(str(part)))


def _fill(
    storage: BaseStorage, name: str, objectives: Sequence[Objective], trials: Sequence[FrozenTrial]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage, study_name=name, directions=[objective.direction for objective in objectives]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a feature that Optuna calls experimental
        study.set_metric_names([objective.metric for objective in objectives])
    study.add_trials(trials)
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def _trials(
    history: History, genes: Sequence[Gene], objectives: Sequence[Objective]
) -> list[FrozenTrial]:
    forms: Any = distributions(genes)
    found = []
    for candidate in history.candidates.values():
        if candidate.genome is None:
            continue
        scored = candidate.evaluations.get("search")
        state = TrialState.RUNNING
        values = constraints = None
        if scored is not None:
            state = TrialState.COMPLETE
            values = [scored.metrics[objective.metric].value for objective in objectives]
            bounds = bounds_of(history)
            constraints = {str(bound): bound.violation(scored.metrics) for bound in bounds}
        elif candidate.failure is not None or candidate.raced is not None:
            state = TrialState.FAIL
        found.append(
            create_trial(
                state=state,
                values=values,
                params={gene.name: value for gene, value in zip(genes, candidate.genome, strict=True)},
                distributions=forms,
                user_attrs=_attributes(candidate),
                constraints=constraints or None,
            )
        )
    return found


def _attributes(candidate: Candidate) -> dict[str, Any]:
    found: dict[str, Any] = {"id": candidate.id, "recipe": candidate.recipe}
    if candidate.failure is not None:
        found["failure"] = candidate.failure
    if candidate.raced is not None:
        found["beaten by"] = candidate.beaten_by
    for split, evaluation in candidate.evaluations.items():
        for name, metric in evaluation.metrics.items():
            found[f"{name} ({split})"] = metric.value
    return found
