"""Scores of an export, by the worker's own code on the folder as it will be published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from evomerge.errors import CandidateError, ConfigError, ExportCheckFailed, Problem
from evomerge.evaluators.declaration import digest, load_evaluator
from evomerge.export import log
from evomerge.export.choice import Chosen
from evomerge.export.files import library_versions
from evomerge.export.verify import check_scores
from evomerge.scores import Metric, Split
from evomerge.worker import score_checkpoint


def check_evaluators(chosen: Chosen) -> dict[str, str]:
    """Digest of each evaluator of the campaign, by name.

    Raises:
        ConfigError: E504, if one is not what it was when the campaign began.
    """
    digests: dict[str, str] = {}
    problems = []
    for file in chosen.campaign.evaluator_files:
        declaration = load_evaluator(file)
        digests[declaration.name] = digest(declaration)
        recorded = chosen.prepared["evaluators"].get(declaration.name, {})
        if recorded.get("digest") != digests[declaration.name]:
            wrong = "the evaluator or its items changed since the campaign began"
            todo = "restore them; other items give other scores"
            problems.append(Problem("E504", wrong, "", todo, str(file), field=declaration.name))
    if problems:
        raise ConfigError(problems)
    return digests


def score_export(
    folder: Path, chosen: Chosen, directory: Path, evaluators: Mapping[str, str]
) -> tuple[dict[str, Metric], tuple[str, ...]]:
    """Score a staged export: first what the campaign recorded, then test items, which are counted.

    Returns:
        The metrics on test items, and warnings.

    Raises:
        ExportCheckFailed: E602, the recorded scores did not come out again, or a score is not finite.
        CampaignInUse, EnvironmentFault, LedgerDamaged: the use of test items could not be recorded.
    """
    evaluations = chosen.candidate.evaluations
    split: Split = "selection" if "selection" in evaluations else "search"
    now = library_versions()
    changed = {
        name: (chosen.versions[name], version)
        for name, version in now.items()
        if chosen.versions.get(name, version) != version
    }
    device = chosen.campaign.config.evaluation.device
    measured = _measure(folder, chosen, split)
    warnings = check_scores(split, evaluations[split].metrics, measured, device, changed)
    test = _measure(folder, chosen, "test")
    log.record_test(directory, chosen.candidate.id, chosen.recipe.digest, evaluators, test)
    return test, warnings


def _measure(folder: Path, chosen: Chosen, split: Split) -> dict[str, Metric]:
    evaluation = chosen.campaign.config.evaluation
    metrics: dict[str, Metric] = {}
    try:
        for file in chosen.campaign.evaluator_files:
            found = score_checkpoint(
                folder,
                file,
                split=split,
                dtype=evaluation.dtype,
                batch_size=evaluation.batch_size,
                device=evaluation.device,
            )
            metrics |= {name: Metric.from_json(data) for name, data in found["metrics"].items()}
    except CandidateError as error:
        problem = Problem("E602", "the reloaded model cannot be scored", str(error))
        raise ExportCheckFailed(problem) from error
    bad = sorted(name for name, metric in metrics.items() if not math.isfinite(metric.value))
    if bad:
        problem = Problem("E602", f"the reloaded model's {split} score is not finite", ", ".join(bad))
        raise ExportCheckFailed(problem)
    return metrics
