"""Optuna's samplers by ask and tell, and a campaign's study for its dashboard."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
import pytest
from optuna.samplers import GPSampler

from evomerge.objectives.objective import Complete, Failed, Raced
from evomerge.optimizers import optuna_samplers
from evomerge.optimizers.kinds import make_optimizer
from evomerge.optimizers.optimizer import AdoptingOptimizer
from evomerge.optimizers.recorded_settings import as_begun
from evomerge.optimizers.settings import OptunaSettings
from evomerge.optimizers.stage import Stage
from evomerge.optimizers.stages import Stages
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


def outcome(number, genome):
    """Two quadratics with a bound, and failures and races among them."""
    if number % 7 == 3:
        return Failed("timeout")
    values = tuple(sum((gene - aim) ** 2 for gene in genome) for aim in (0.2, 0.6))
    return Raced(8, values) if number % 7 == 5 else Complete(values, (0.0, 0.0), (genome[0] - 0.7,))


def made(settings, schedule="generational"):
    return make_optimizer(
        "optuna",
        unit_genes(3),
        minimised(2),
        population=4,
        seed=3,
        initial=[(0.5, 0.5, 0.5)],
        settings=settings,
        schedule=schedule,
    )


def undisturbed(search, schedule, asks):
    """Every ask, with what was told after it and the state then; in steady state some are pending."""
    log, open_, count = [], [], 0
    for turn in range(asks):
        batch = search.ask()
        open_ += list(enumerate(batch, count))
        count += len(batch)
        told = []
        if schedule == "generational":
            told, open_ = open_, []
        elif turn % 5 != 1:
            told = [open_.pop(turn * 7 % len(open_))]
        outcomes = [outcome(number, genome) for number, genome in told]
        if told:
            search.tell(outcomes, [number for number, _ in told])
        log.append((batch, outcomes, [number for number, _ in told], search.state_digest()))
    return log


@pytest.mark.parametrize("schedule", ["generational", "steady_state"])
@pytest.mark.parametrize("sampler", ["tpe", "nsga3", "gp"])
def test_a_resume_after_any_batch_asks_the_same_and_samples_nothing(sampler, schedule, monkeypatch):
    """More than ten candidates have values before the last ones, which Gaussian processes ask for."""
    plain = GPSampler.__init__

    def few(self, **given):
        plain(self, **given)
        # How many points it looks at: 2,048, of which ten go uphill.
        self._n_preliminary_samples, self._n_local_search, self._n_qmc_samples_ehvi = 16, 2, 8

    monkeypatch.setattr(GPSampler, "__init__", few)
    asks = 6 if schedule == "generational" else 22
    settings = OptunaSettings(sampler)
    log = undisturbed(made(settings, schedule), schedule, asks)
    for cut in range(asks) if sampler != "gp" else (asks - 2, asks - 1):
        resumed = made(settings, schedule)
        assert isinstance(resumed, AdoptingOptimizer)
        with monkeypatch.context() as patched:
            patched.delattr(optuna.study.Study, "ask")
            for batch, outcomes, numbers, state in log[:cut]:
                resumed.adopt(batch, [None] * len(batch))
                if numbers:
                    resumed.tell(outcomes, numbers)
                assert resumed.state_digest() == state
        assert resumed.ask() == log[cut][0], f"after {cut} of {asks} batches"


def test_the_members_of_a_generation_are_parents_of_the_next():
    """NSGA-III crosses what was told: most genes of a child are a parent's, as none are that was drawn."""
    search, told = made(OptunaSettings("nsga3")), []
    for _ in range(8):
        batch = search.ask()
        search.tell([outcome(0, genome) for genome in batch])
        told.append(batch)
    values = [{genome[gene] for batch in told[:4] for genome in batch} for gene in range(3)]
    later = [genome for batch in told[4:] for genome in batch]
    kept = [genome[gene] in values[gene] for genome in later for gene in range(3)]
    assert np.mean(kept) > 0.4


@pytest.mark.parametrize("sampler", ["tpe", "nsga3"])
def test_a_campaign_from_before_is_adopted_and_goes_on_in_the_new_way(sampler):
    """Its record lacks how it was seeded. Nothing of that is in its states, so that it comes to the same."""
    before = as_begun("optuna", {}, {"sampler": sampler, "multivariate": True})
    assert before.seeded == "once"
    old = made(before)
    old.asks_again = True  # as every ask was
    log = undisturbed(old, "generational", 5)
    assert log != undisturbed(made(OptunaSettings(sampler)), "generational", 5)
    found = []
    for settings in (before, OptunaSettings(sampler)):
        resumed = made(settings)
        for batch, outcomes, numbers, state in log:
            resumed.adopt(batch, [None] * len(batch))
            resumed.tell(outcomes, numbers)
            assert resumed.state_digest() == state
        found.append(resumed.ask())
    assert found[0] == found[1]


def test_a_stage_from_before_asks_as_it_did():
    """Stages are asked again: with the settings of then as one sampler that is seeded once, by itself."""
    before = as_begun("optuna", {}, {"sampler": "tpe", "multivariate": True})
    genes, objectives = unit_genes(3), minimised(2)
    staged = {}
    for name, settings in (("before", before), ("now", OptunaSettings("tpe"))):
        search = Stages([Stage("merge", "optuna", settings)], genes, objectives, 4, 3, [])
        staged[name] = [batch for batch, *_ in undisturbed(search, "generational", 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampling = optuna_samplers.sampler(before, 3, 4)
    of_then = optuna.create_study(directions=["minimize"] * 2, sampler=sampling)
    forms = optuna_samplers.distributions(genes)
    number = 0
    for batch in staged["before"]:
        trials = [of_then.ask(forms) for _ in batch]
        for trial, genome in zip(trials, batch, strict=True):
            assert tuple(trial.params.values()) == pytest.approx(genome)
            found = outcome(number, genome)
            number += 1
            if isinstance(found, Complete):
                trial.set_constraint("bound 0", found.violations[0])
                of_then.tell(trial, found.values)
            else:
                of_then.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert staged["now"] != staged["before"]


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_a_campaign_as_a_study(tmp_path, name):
    done = finished()
    file = tmp_path / name
    said = call("optuna", done.directory, "-o", file)
    assert said.code == 0
    # The dashboard refuses the name of an SQLite file; SQLAlchemy reads the URL as Optuna does below.
    shown = f"sqlite:///{file}" if name.endswith(".db") else str(file)
    assert f"`optuna-dashboard {shown}`" in said.err
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
    (tmp_path / "file").touch()
    found = call("optuna", done.directory, "-o", tmp_path / "file" / "study.db")
    assert (found.code, "E408" in found.err) == (5, True)
    assert note.read_text() == "mine"
