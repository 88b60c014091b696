"""The benchmark of a card, tiny and on the CPU: every step runs, tells at once, and keeps to itself."""

import json
import time

import pytest
from lm_eval import evaluator as stock_evaluator

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.report import Report, Step


def test_a_tiny_version_of_every_step_runs_on_the_cpu(tmp_path, capsys, monkeypatch):
    # It would ask a dozen programs for what surrounds it, at each of its calls.
    monkeypatch.setattr(stock_evaluator, "add_env_info", lambda _: None)
    assert benchmark.main(["--out", str(tmp_path), "--minutes", "30", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["tiny"]
    assert [*found["steps"]] == [str(number) for number in range(1, 11)]
    figures = {number: step["figures"] for number, step in found["steps"].items()}
    assert figures["1"]["plain_different"] == figures["1"]["beyond_one_rounding"] == []
    assert figures["4"]["apart_8"] == 0.0
    assert figures["5"]["equal_texts"] == 6
    assert figures["8"]["fronts_equal"]
    assert figures["8"]["killed"]
    assert figures["10"]["outside"] == []
    assert "NOT MET" not in told, "what is asked of a card is not asked of a toy"
    assert "not done: none" in told


def fails(bed, report):
    report.say("half of it", half=1)
    raise ValueError("no such thing")


def never_ends(bed, report):
    report.say("begun", begun=1)
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        report.say("swallowed")


def works(bed, report):
    report.say("fine", fine=report.asked(1.31, 1.3))


def test_a_step_that_fails_or_takes_too_long_costs_but_itself(tmp_path, capsys):
    report = Report(tmp_path / "gpu.json", {"device": "none"})
    steps = (Step(1, "a", 1, fails), Step(2, "b", 1, never_ends), Step(3, "c", 1, works))
    for step, seconds in zip(steps, (60, 0.2, 60), strict=True):
        report.carry_out(step, None, seconds)
    found = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [step["status"] for step in found.values()] == ["failed", "out of time", "done"]
    assert [step["figures"] for step in found.values()] == [
        {"half": 1},
        {"begun": 1},
        {"fine": "1.31 (asked at most 1.3: NOT MET)"},
    ]
    assert "ValueError: no such thing" in found["1"]["traceback"]
    assert "FAILED: ValueError: no such thing" in capsys.readouterr().out


def test_without_a_card_it_says_so_and_runs_what_was_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(benchmark, "STEPS", (Step(1, "a", 1, fails), Step(2, "b", 1, works)))
    assert benchmark.main(["--out", str(tmp_path), "--minutes", "1", "--only", "2"]) == 0
    assert capsys.readouterr().out.startswith("no CUDA device: a tiny version of every step")
    assert [*json.loads((tmp_path / "gpu.json").read_text())["steps"]] == ["2"]
    assert benchmark.main(["--out", str(tmp_path), "--minutes", "1"]) == 1


def test_a_step_whose_module_cannot_be_imported_fails_by_itself(tmp_path):
    report = Report(tmp_path / "gpu.json", {})
    with pytest.raises(ModuleNotFoundError, match="no_such_room"):
        benchmark.later("no_such_room", "step")(None, report)
