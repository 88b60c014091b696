"""`check --deep`: what the weights themselves say, and that a run does not read them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import evomerge as em
from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import CheckReport, check_campaign
from evomerge.checkpoint import digest
from evomerge.errors import ConfigError
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.run.deep_check import check_weights
from evomerge.run.job import Job
from evomerge.run.worker import Worker
from evomerge.run.worker_setup import worker_setup
from tests.tiny_models import write_campaign


def look(folder: Path, directory: Path | None = None) -> CheckReport:
    campaign = load_campaign(folder / "campaign.yaml")
    return check_weights(campaign, check_campaign(campaign), directory)


def test_weights_say_which_expert_has_nan_and_where(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    file = tmp_path / "models" / "math" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    found = look(tmp_path)
    (problem,) = found.problems
    assert (problem.code, problem.field, problem.found) == ("E232", "model.norm.weight", "1 elements")
    assert problem.wrong == "math has NaN or infinite weights"
    assert found.weights is None
    with pytest.raises(em.EvomergeError, match=r"E232.*models/math model.norm.weight: math has NaN"):
        em.Campaign.load(tmp_path / "campaign.yaml").check(deep=True).raise_problems()


def test_an_expert_that_equals_the_base_is_a_warning(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    for name in ("code", "base"):
        shutil.rmtree(tmp_path / "models" / name, ignore_errors=name == "code")
        shutil.copytree(tmp_path / "models" / "math", tmp_path / "models" / name)
    found = look(tmp_path)
    assert found.problems == []
    assert [(p.code, Path(p.file).name) for p in found.warnings] == [("E233", "math"), ("E233", "code")]


def test_what_was_read_is_there_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_campaign(tmp_path)
    run = tmp_path / "run"
    report = look(tmp_path, run)
    assert report.weights is not None
    assert set(report.weights) == {"base", "math", "code"}

    def never(*_: object) -> None:
        raise AssertionError("the weights are read a second time")

    monkeypatch.setattr(digest, "_file_digest", never)
    monkeypatch.setattr(WeightStatistics, "_look", never)
    campaign = load_campaign(tmp_path / "campaign.yaml")
    setup = worker_setup(campaign, report.paths, report.storage, run / "cache", False)
    result = Worker(setup).run(Job("p", "prepare"))
    assert result.prepared is not None, result.message
    assert result.prepared.checkpoints == report.weights
    assert [path.name for path in run.iterdir()] == ["cache"]


def test_models_with_faults_are_not_read_and_other_folders_not_written(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    with pytest.raises(ConfigError, match=r"E135.*no campaign folder"):
        look(tmp_path, tmp_path / "models")
    (tmp_path / "models" / "math" / "config.json").unlink()
    assert [problem.code for problem in look(tmp_path, tmp_path / "run").problems] == ["E202"]
    assert not (tmp_path / "run").exists()
