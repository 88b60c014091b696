"""Campaigns over models whose vocabularies differ: refused unless the file says whose tokens merges have."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.campaign.campaign import load_campaign
from evomerge.campaign.check import check_campaign
from evomerge.checkpoint.vocabulary import token_ids
from evomerge.cli.verify.invariants import verify
from evomerge.errors import ConfigError
from evomerge.export.export import export_candidate
from evomerge.front.folder import open_campaign_folder
from evomerge.ledger.history import History
from tests.checkpoint.test_vocabulary import change_tokens
from tests.cli.terminal import call
from tests.tiny_models import write_campaign
from tests.tiny_runs import run_file

TRIMMED = {
    "schema": 1,
    "method": "ties",
    "coefficients": {
        "weight": {"field": "model", "low": 0.0, "high": 1.5},
        "density": {"field": "model", "low": 0.1, "high": 0.9},
    },
}
SMALL = {"optimizer": {"population": 4}, "budget": {"evaluations": 4}, "baselines": {"single": [0.4]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vocabularies")
    experts = sorted(load_campaign(write_campaign(root, **SMALL)).experts)
    models = root / "models"
    size = load_file(models / "base" / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    change_tokens(models / experts[0], ("bird",), ("sum", "both"), "<tool>", size + 3)
    change_tokens(models / experts[1], (), ("both",), "<fim>", size + 5)
    return root


def test_differing_vocabularies_are_refused_unless_a_tokenizer_is_stated(folder: Path) -> None:
    found = check_campaign(load_campaign(write_campaign(folder, **SMALL)))
    assert "E226" in {problem.code for problem in found.problems}
    for source in ("base", "union", *load_campaign(folder / "campaign.yaml").experts):
        campaign = load_campaign(write_campaign(folder, tokenizer={"source": source}, **SMALL))
        assert campaign.tokenizer == source
        assert check_campaign(campaign).problems == []


def test_a_tokenizer_of_nobody(folder: Path) -> None:
    file = write_campaign(folder, tokenizer={"source": "nobody"}, **SMALL)
    with pytest.raises(ConfigError, match=r"E133.*tokenizer.source.*nobody.*known: base, union"):
        load_campaign(file)


@pytest.mark.parametrize("source", ["union", "base"])
def test_what_was_scored_in_a_common_vocabulary_is_what_is_exported(folder: Path, source: str) -> None:
    file = write_campaign(folder, tokenizer={"source": source}, **SMALL)
    directory = folder / f"run-{source}"
    history = run_file(file, directory)
    found = history.candidates.values()
    merged = [c for c in found if not c.is_baseline and "search" in c.evaluations]
    assert merged
    assert all(c.failure is None for c in history.candidates.values())
    assert verify(directory) == []
    # Rescored from its files: other scores than those on record are an error.
    for number, choice in enumerate((merged[-1].id, "base")):
        report = export_candidate(directory, choice, folder / f"out-{source}-{number}")
        assert report.scores


@pytest.mark.parametrize("source", ["union", "base"])
def test_rows_that_a_campaign_states(folder: Path, source: str) -> None:
    first, second = experts_of(folder)
    tokens = {
        "<z>": {"source": first, "token": "sum", "force": True},
        "<a>": {},
        "cat": {"source": second},
    }
    stated = {"source": source, "tokens": tokens, "pad_to_multiple_of": 64}
    directory = folder / f"tokens-{source}"
    history = run_file(write_campaign(folder, tokenizer=stated, **SMALL), directory)
    assert all(candidate.failure is None for candidate in history.candidates.values())
    assert verify(directory) == []
    assert history.config["tokenizer"] == stated
    merged = [c for c in history.candidates.values() if not c.is_baseline and "search" in c.evaluations]
    # Scored again from its files: other rows or ids than in the search would be an error.
    out = folder / f"tokens-out-{source}"
    assert export_candidate(directory, merged[-1].id, out).scores
    ids, weights = token_ids(out), load_file(out / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    assert ids["<z>"] - 1 == ids["<a>"] == max(token_ids_before(folder, source).values()) + 1
    assert len(embedding) % 64 == 0
    assert not embedding[ids["<a>"]].any()
    own = load_file(folder / "models" / first / "model.safetensors")["model.embed_tokens.weight"]
    row = own[token_ids(folder / "models" / first)["sum"]]
    torch.testing.assert_close(embedding[ids["<z>"]], row, rtol=0, atol=1e-2)
    mean = embedding[: len(ids)].float().mean(dim=0)
    torch.testing.assert_close(embedding[-1].float(), mean, rtol=0, atol=1e-2)


def experts_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "models").iterdir() if path.name != "base")


def token_ids_before(folder: Path, source: str) -> dict[str, int]:
    """Tokens of the base or, in the order of a union, of all models."""
    found = token_ids(folder / "models" / "base")
    for expert in experts_of(folder) if source == "union" else ():
        new = [token for token in token_ids(folder / "models" / expert) if token not in found]
        found |= {token: max(found.values()) + 1 + number for number, token in enumerate(new)}
    return found


def test_a_row_of_nobody(folder: Path) -> None:
    tokens = {"<z>": {"source": "nobody"}}
    file = write_campaign(folder, tokenizer={"source": "base", "tokens": tokens}, **SMALL)
    with pytest.raises(ConfigError, match=r"E133.*tokens.<z>.source: no such source of a token's row"):
        load_campaign(file)


def test_arms_of_a_study_keep_their_vocabularies_apart(folder: Path) -> None:
    """They share a cache: each arm has the scores that it has by itself."""
    first, _ = experts_of(folder)
    forms: dict[str, dict[str, Any]] = {
        "union": {"source": "union"},
        "theirs": {"source": first, "tokens": {"<z>": {"source": first, "token": "sum"}}},
    }
    alone = {}
    for name, tokenizer in forms.items():
        file = write_campaign(folder, tokenizer=tokenizer, space=TRIMMED, **SMALL)
        alone[name] = scores(run_file(file, folder / f"alone-{name}"))
    arms = {name: {"tokenizer": tokenizer} for name, tokenizer in forms.items()}
    (folder / "arms.yaml").write_text(json.dumps({"schema": 1, "arms": arms}))
    words = ["--arms", folder / "arms.yaml", "--seeds", "1", "--dir", folder / "study"]
    done = call("study", "run", file, *words)
    assert done.code == 0, done.err
    for path in (folder / "study" / "runs").glob("*/"):
        found = scores(open_campaign_folder(path).history)
        assert found == alone[path.name.rpartition("-")[0]]


def scores(history: History) -> dict[str, dict[str, float]]:
    """Candidate to metric to value, on search items."""
    return {
        candidate.id: {n: m.value for n, m in candidate.evaluations["search"].metrics.items()}
        for candidate in history.candidates.values()
        if "search" in candidate.evaluations
    }
