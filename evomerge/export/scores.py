"""Scores of an export, by the worker's own code on the folder as it will be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.campaign.check import locate
from evomerge.campaign.prepared import generation_of
from evomerge.errors import CandidateError, ConfigError, ExportCheckFailed, Problem
from evomerge.evaluators.evaluator import Evaluator, Subject
from evomerge.evaluators.judge import score_subject
from evomerge.evaluators.kinds import load_declaration
from evomerge.export import log
from evomerge.export.choice import Chosen
from evomerge.export.taken import NOTHING, Taken
from evomerge.export.verify import check_scores
from evomerge.objectives.scores import Metric, Split
from evomerge.run.scoring import distance_statistics, heads_beside, load_tokenizer, open_evaluators
from evomerge.versions import SCORING, library_versions


def check_evaluators(chosen: Chosen) -> dict[str, str]:
    """Digest of each evaluator of the campaign, by name.

    Raises:
        ConfigError: E504, if one is not what it was when the campaign began.
    """
    digests: dict[str, str] = {}
    problems = []
    for file in chosen.campaign.evaluator_files:
        declaration = load_declaration(file)
        digests[declaration.name] = declaration.digest()
        if chosen.prepared.digest_of(declaration.name) != digests[declaration.name]:
            wrong = "the evaluator or its items changed since the campaign began"
            todo = "restore them; other items give other scores"
            problems.append(Problem("E504", wrong, "", todo, str(file), field=declaration.name))
    if problems:
        raise ConfigError(problems)
    return digests


def score_export(
    model: Any,
    folder: Path,
    chosen: Chosen,
    directory: Path,
    digests: Mapping[str, str],
    *,
    allow_task_code: bool = False,
    taken: Taken = NOTHING,
) -> tuple[Mapping[str, Metric], tuple[str, ...]]:
    """Score a staged export: first what the campaign recorded, then test items, which are counted.

    Args:
        model: what transformers loaded of the staged folder, in the dtype of the evaluation.
        folder: the staged folder.
        chosen: the candidate.
        directory: the campaign folder.
        digests: of the campaign's evaluators, by name.
        allow_task_code: whether task files may run the Python they name.
        taken: what the folder has in place of what the search scored with: recorded scores may then differ.

    Returns:
        The metrics on test items, and warnings.

    Raises:
        ExportCheckFailed: E602, the recorded scores did not come out again, or a score is not finite.
        CampaignInUse, EnvironmentFault, LedgerDamaged: the use of test items could not be recorded.
    """
    evaluations = chosen.candidate.evaluations
    split: Split = "selection" if "selection" in evaluations else "search"
    now = library_versions(SCORING)
    changed = {
        name: (chosen.versions[name], version)
        for name, version in now.items()
        if chosen.versions.get(name, version) != version
    }
    evaluation = chosen.campaign.config.evaluation
    device = evaluation.device
    files = chosen.campaign.evaluator_files
    evaluators = open_evaluators(files, allow_code=allow_task_code)
    base = Path(locate("base", chosen.campaign.references()["base"]))
    subject = Subject(
        model=model.to(device),
        tokenizer=load_tokenizer(folder),
        statistics=distance_statistics(evaluators, folder, base, evaluation.dtype),
        device=device,
        batch_size=evaluation.batch_size,
        folder=folder,
        heads=heads_beside(folder, model),
        generation=generation_of(evaluation.generation, chosen.prepared),
    )
    measured = _measure(subject, evaluators, split)
    clocked = {
        name for each in evaluators if not each.declaration.deterministic for name in each.metrics
    }
    recorded = {n: m for n, m in evaluations[split].metrics.items() if n not in clocked}
    try:
        warnings = check_scores(split, recorded, measured, device, changed)
    except ExportCheckFailed as error:
        if not taken:
            raise
        # The weights were compared byte by byte before; another tokenizer reads items otherwise.
        told = [f"{problem.field}: {problem.found}, with {taken}" for problem in error.problems]
        warnings = tuple(f"{split} score of {text}" for text in told)
    test = _measure(subject, evaluators, "test")
    log.record_test(directory, chosen.candidate.id, chosen.recipe.digest, digests, test)
    return test, warnings


def _measure(subject: Subject, evaluators: Sequence[Evaluator], split: Split) -> Mapping[str, Metric]:
    try:
        return score_subject(subject, evaluators, split).metrics
    except CandidateError as error:
        problem = Problem("E602", f"the reloaded model has no {split} scores", str(error))
        raise ExportCheckFailed(problem) from error
