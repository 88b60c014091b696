"""Optuna's samplers by ask and tell, and a campaign's study for its dashboard."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
import pytest
from optuna.samplers import GPSampler

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.settings import OptunaSettings
from evomerge.testing.problems import minimised, unit_genes, zdt1
from tests.cli.terminal import call
from tests.tiny_runs import finished


def test_tpe_is_replayed_with_failures_and_constraints():
    problem = zdt1(4)
    asks = []
    for seed in (1, 1, 2):
        optimizer = make_optimizer(
            "optuna",
            problem.genes,
            problem.objectives,
            population=4,
            seed=seed,
            settings=OptunaSettings(),
        )
        asked = []
        for _ in range(6):
            batch = optimizer.ask()
            told = [problem.outcome(genome) for genome in batch]
            told = [
                Complete(o.values, o.errors, (0.5 - g[0],)) for o, g in zip(told, batch, strict=True)
            ]
            told[1] = Failed("timeout")
            told[2] = Raced(8, (0.0, 0.0))
            asked += batch
            optimizer.tell(told)
        asks.append((asked, optimizer.state_digest()))
    assert asks[0] == asks[1]
    assert asks[0] != asks[2]


def test_gaussian_processes_ask_after_ten_trials_and_are_replayed_with_failures(monkeypatch):
    """Two quadratics, best at 0.30 and 0.34: what the sampler draws is asked, and lies there."""
    objectives, genes, plain = minimised(2), unit_genes(2), GPSampler.sample_relative
    drawn: list[tuple[int, dict]] = []
    asked: list[tuple[float, ...]] = []

    def noted(sampler, study, trial, space):
        drawn.append((len(asked), plain(sampler, study, trial, space)))
        return drawn[-1][1]

    def away(genomes):
        return np.abs(np.array(genomes) - 0.32).max(axis=1)

    monkeypatch.setattr(GPSampler, "sample_relative", noted)
    ends = []
    for evaluations in (16, 13):
        optimizer = make_optimizer(
            "optuna",
            genes,
            objectives,
            population=4,
            seed=1,
            settings=OptunaSettings("gp"),
            schedule="steady_state",
        )
        asked.clear()
        drawn.clear()
        states = []
        for number in range(evaluations):
            (genome,) = optimizer.ask()
            asked.append(genome)
            values = tuple(sum((gene - aim) ** 2 for gene in genome) for aim in (0.30, 0.34))
            failed = number in (2, 11)
            optimizer.tell([Failed("timeout") if failed else Complete(values, (0.0, 0.0))], [number])
            states.append(optimizer.state_digest())
        ends.append(states)
        # Ten trials with values and one that failed are drawn at random, by no model.
        assert all(bool(point) == (number >= 11) for number, point in drawn)
        for number in range(11, evaluations):
            offers = [tuple(point.values()) for n, point in drawn if n == number]
            assert any(asked[number] == pytest.approx(offer) for offer in offers)
        if evaluations == 16:
            assert np.median(away(asked[13:])) < 0.15
            assert np.median(away(asked[:11])) > 0.25
    assert ends[0][:13] == ends[1]


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_a_campaign_as_a_study(tmp_path, name):
    done = finished()
    file = tmp_path / name
    assert call("optuna", done.directory, "-o", file).code == 0
    first = file.read_bytes()
    assert call("optuna", done.directory, "-o", file).code == 0, "a study is written anew"
    assert list(tmp_path.iterdir()) == [file]
    assert first.startswith(b"SQLite format 3" if name.endswith(".db") else b'{"op_code"')
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    storage = f"sqlite:///{file}" if name.endswith(".db") else optuna.storages.JournalStorage(backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.load_study(study_name="tiny", storage=storage)
        names = study.metric_names
    candidates = [c for c in done.history.candidates.values() if c.genome is not None]
    assert names == ["pets.acc", "birds.acc"]
    assert [trial.user_attrs["id"] for trial in study.trials] == [c.id for c in candidates]
    for trial, candidate in zip(study.trials, candidates, strict=True):
        assert tuple(trial.params.values()) == candidate.genome
        assert trial.user_attrs["recipe"] == candidate.recipe
        if "search" in candidate.evaluations:
            metrics = candidate.evaluations["search"].metrics
            assert trial.values == [metrics["pets.acc"].value, metrics["birds.acc"].value]
        else:
            failed = candidate.failure is not None
            assert trial.state.name == ("FAIL" if failed else "RUNNING")
            assert trial.user_attrs.get("failure") == candidate.failure
    member = done.front.members[0]
    held = next(t for t in study.trials if t.user_attrs["id"] == member.id)
    assert held.user_attrs["pets.acc (selection)"] == member.metrics["selection"]["pets.acc"].value


def test_what_is_no_study_is_left_alone(tmp_path):
    done = finished()
    found = call("optuna", done.directory, "-o", tmp_path / "study.txt")
    assert found.code == 2
    assert "E500" in found.err
    assert "end its name in one of .db" in found.err
    note = tmp_path / "notes.db"
    note.write_text("mine")
    found = call("optuna", done.directory, "-o", note)
    assert found.code == 2
    assert "there is a file that is no study" in found.err
    assert note.read_text() == "mine"
