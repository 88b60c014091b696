"""`evaluation.generation`: measured once, recorded, part of the evaluation key, the same on resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from evomerge.campaign.campaign import load_campaign
from evomerge.cli.verify import verify
from evomerge.evaluators.continuous import ContinuousGenerator
from evomerge.evaluators.evaluator import Subject
from evomerge.evaluators.kinds import open_evaluator
from evomerge.evaluators.lm_eval_declaration import load_evaluator
from evomerge.run import engine
from evomerge.run.generation_times import time_engines
from tests.evaluators.conftest import build_llama, build_tokenizer
from tests.evaluators.test_generation import WRITE
from tests.tiny_models import write_campaign, write_evaluator
from tests.tiny_runs import events_of, run_file

SHORT = WRITE.replace("max_gen_toks: 90", "max_gen_toks: 6").replace("pets", "NAME")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(generation: str) -> Path:
        folder = tmp_path / "campaign"
        if not folder.exists():
            write_evaluator(
                folder / "evaluators",
                "pets",
                counts=(5, 3, 3),
                task=SHORT,
                metrics=["exact_match", "chrf"],
            )
        return write_campaign(
            folder,
            objectives=[
                {"metric": "pets.chrf", "direction": "maximize"},
                {"metric": "birds.acc", "direction": "maximize"},
            ],
            optimizer={"kind": "nsga2", "population": 4},
            budget={"evaluations": 4},
            evaluation={"generation": generation},
            baselines={"single": [0.4]},
        )

    return write


def metrics_of(directory: Path) -> dict[tuple[str, str], Any]:
    found = [event for event in events_of(directory) if event["event"] == "evaluated"]
    return {(e["id"], e["split"]): {n: m["value"] for n, m in e["metrics"].items()} for e in found}


def keys_of(directory: Path) -> set[str]:
    return {event["key"] for event in events_of(directory) if event["event"] == "evaluated"}


def test_auto_takes_what_was_faster_and_a_resume_the_same(
    file: Callable[[str], Path], tmp_path: Path
) -> None:
    run_file(file("padded"), tmp_path / "padded")
    assert "generation" not in json.dumps(events_of(tmp_path / "padded")[0]["config"]["evaluation"])
    times = mock.Mock(return_value={"padded": 2.0, "continuous": 1.0})

    def generate(self: Any, requests: Any) -> Any:
        calls.append(len(requests))
        return plain(self, requests)

    calls: list[int] = []
    plain = ContinuousGenerator.generate
    with (
        mock.patch.object(engine, "time_engines", times),
        mock.patch.object(ContinuousGenerator, "generate", generate),
    ):
        run_file(file("auto"), tmp_path / "auto")
        assert times.call_count == 1
        assert calls
        times.side_effect = AssertionError("a resume does not measure")
        run_file(file("auto"), tmp_path / "auto")
    prepared = next(e for e in events_of(tmp_path / "auto") if e["event"] == "prepared")
    assert prepared["generation"] == {"padded": 2.0, "continuous": 1.0}
    assert not keys_of(tmp_path / "padded") & keys_of(tmp_path / "auto"), "another engine, another key"
    assert metrics_of(tmp_path / "padded") == metrics_of(tmp_path / "auto")
    for name in ("padded", "auto"):
        assert verify(tmp_path / name) == []


def test_engines_are_timed_and_one_that_fails_is_left_out(
    file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = file("auto").parent
    evaluators = [
        open_evaluator(load_evaluator(folder / f"evaluators/{n}.yaml")) for n in ("pets", "birds")
    ]
    tokenizer = build_tokenizer()
    subject = Subject(build_llama(len(tokenizer)), tokenizer)
    assert {*time_engines(subject, evaluators)} == {"padded", "continuous"}
    with mock.patch.object(ContinuousGenerator, "generate", side_effect=ValueError("no pages")):
        assert {*time_engines(subject, evaluators)} == {"padded"}
    assert "no continuous batching here: ValueError: no pages" in caplog.text
    assert time_engines(subject, evaluators[1:]) == {"padded": 0.0, "continuous": 0.0}


def test_an_engine_that_is_none_is_refused(file: Callable[[str], Path]) -> None:
    path = file("paged")
    with pytest.raises(Exception, match=r"evaluation.generation"):
        load_campaign(path)
