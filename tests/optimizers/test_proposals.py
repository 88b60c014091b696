"""A person's own optimizer: one function, registered by name, and all that an optimizer owes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import evomerge as em
from evomerge.errors import ConfigError, UsageError
from evomerge.optimizers import kinds
from evomerge.optimizers.kinds import make_optimizer, optimizer_settings
from evomerge.testing.optimizers import CHECKS, OBJECTIVES, STEADY_CHECKS, example_genes, run
from tests.tiny_models import write_campaign


@dataclass(frozen=True)
class Spread:
    """Settings of the optimizer below."""

    sigma: float = 0.1


def gaussian(asked: em.Asked) -> np.ndarray:
    points, values = asked.complete()
    if not len(points):
        return asked.rng.uniform(asked.low, asked.high, (asked.count, len(asked.genes)))
    parents = points[np.argsort(values.sum(axis=1), kind="stable")[:5]]
    chosen = parents[asked.rng.integers(len(parents), size=asked.count)]
    return chosen + asked.rng.normal(0.0, asked.settings.sigma, chosen.shape)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered for one test; the next one finds none."""
    monkeypatch.setattr(kinds, "_REGISTERED", {})
    em.optimizer("gaussian", settings=Spread, about="Gaussian steps from the best sums")(gaussian)


def factory(schedule):
    def make(genes, objectives, population, seed, initial):
        return make_optimizer(
            "gaussian", genes, objectives, population=population, seed=seed, initial=initial,
            schedule=schedule,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check):
    check(factory("generational"))


@pytest.mark.parametrize("check", STEADY_CHECKS, ids=lambda check: check.__name__)
def test_it_conforms_in_steady_state(check):
    check(factory("steady_state"))


def test_it_searches():
    made = factory("generational")(example_genes(), OBJECTIVES, 12, 5, ())
    batches = run(made, 20)
    distance = [np.abs(np.array(batch) - 0.55).mean() for batch in batches]
    assert distance[-1] < 0.6 * distance[0]


def test_bad_proposals_and_names_are_refused():
    @em.optimizer("bad")
    def bad(asked):
        return np.zeros((asked.count, 2))

    made = make_optimizer("bad", example_genes(), OBJECTIVES, population=4, seed=0)
    with pytest.raises(ValueError, match=r"proposals must be finite numbers .*found shape \(4, 2\)"):
        made.ask()
    with pytest.raises(UsageError, match=r"E512.*`nsga2` is a built-in optimizer"):
        em.optimizer("nsga2")
    with pytest.raises(UsageError, match=r"E512.*must be a dataclass"):
        em.optimizer("x", settings=dict)
    with pytest.raises(ConfigError, match=r"E104.*options of gaussian: sigma"):
        optimizer_settings("gaussian", {"sigmas": 1.0})


def test_a_campaign_uses_it_by_its_name_and_resumes(tmp_path: Path) -> None:
    section = {"kind": "gaussian", "population": 4, "options": {"sigma": 0.2}}
    small = write_campaign(tmp_path, optimizer=section, budget={"evaluations": 4})
    em.Campaign.load(small).run(tmp_path / "run", progress=False)
    large = write_campaign(tmp_path, optimizer=section, budget={"evaluations": 8})
    assert em.Campaign.load(large).run(tmp_path / "run", progress=False).history.budget_used == 8


def test_an_installed_one_is_found_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import evomerge as em\n\n@em.optimizer('installed')\ndef propose(asked):\n    return []\n"
    )
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[evomerge.optimizers]\ninstalled = mine\nbroken = mine.nothing\nother = mine\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from evomerge.errors import ConfigError
from evomerge.optimizers.kinds import known_kinds, optimizer_settings
print(known_kinds()["installed"], optimizer_settings("installed", {{}}))
for name in ("broken", "other"):
    try:
        optimizer_settings(name, {{}})
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "from mine NoSettings()"
    assert "E123" in lines[1]
    assert "mine.nothing cannot be imported" in lines[1]
    assert "mine registers no optimizer `other`" in lines[2]
