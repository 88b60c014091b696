from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from evomerge.cli.output import log_console, table_console
from evomerge.ledger.records import RecordFile
from tests.cli.terminal import Forked, call, in_terminal
from tests.tiny_models import write_campaign
from tests.tiny_runs import events_of, finished, front_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and tasks of a tiny campaign; `write_campaign` changes its file only."""
    folder = tmp_path_factory.mktemp("campaign")
    for name in ("models", "evaluators"):
        shutil.copytree(finished().file.parent / name, folder / name)
    return folder


def _evaluated(directory):
    if not (directory / "ledger.jsonl").exists():
        return 0
    return sum(event["event"] == "evaluated" for event in events_of(directory))


def test_run_prints_lines_and_the_front(folder, tmp_path):
    file = write_campaign(folder, budget={"evaluations": 12})
    run = Forked(tmp_path, "run", file, "--dir", tmp_path / "run").wait()
    assert run.code == 0, run.err
    lines = run.err.splitlines()
    assert lines[0] == "prepare: reading the checkpoints"
    assert lines[1].startswith("baselines: ")
    generations = [line for line in lines if line.startswith("generation ")]
    assert [re.match(r"generation (\d+): \d+ of 12 evaluations", line)[1] for line in generations] == [
        str(number) for number in range(len(generations))
    ]
    assert lines[-1] == "done: 12 evaluations, ended by its budget of evaluations"
    assert "\x1b" not in run.err + run.out
    assert run.out == call("front", tmp_path / "run").out
    assert run.out.startswith("tiny: front of ")

    again = call("run", file, "--dir", tmp_path / "run", "--json")
    assert again.code == 0
    assert again.err == "this campaign is finished; raise its `budget` to go on\n"
    assert again.json == call("front", tmp_path / "run", "--json").json
    assert again.json.items() >= json.loads(front_text(tmp_path / "run")).items()

    events = len(events_of(tmp_path / "run"))
    write_campaign(folder, budget={"evaluations": 14})
    more = Forked(tmp_path, "run", file, "--dir", tmp_path / "run").wait()
    assert more.code == 0, more.err
    assert len(events_of(tmp_path / "run")) > events
    assert more.err.splitlines()[-1] == "done: 14 evaluations, ended by its budget of evaluations"

    write_campaign(folder, seed=8)
    other = call("run", file, "--dir", tmp_path / "run")
    assert other.code == 3
    assert "error[E504]" in other.err
    assert "was 7, is 8" in other.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_cleanly_and_the_run_goes_on(number, code, folder, tmp_path):
    file = write_campaign(folder)
    directory = tmp_path / "run"
    run = Forked(tmp_path, "run", file, "--dir", directory)
    run.wait_until(lambda: _evaluated(directory) >= 9)
    run.signal(number)
    stopped = run.wait()
    assert stopped.code == code, stopped.err
    assert f"go on with: evomerge run {file} --dir {directory}" in stopped.err
    assert stopped.out == ""
    assert events_of(directory)[-1]["event"] == "stopped"
    phase = call("status", directory, "--json").json["phase"]
    assert phase == {75: "stopped", 130: "interrupted"}[code]
    if number == signal.SIGINT:
        return  # going on is the same, and once is enough
    rest = Forked(tmp_path, "run", file, "--dir", directory).wait()
    assert rest.code == 0, rest.err
    assert front_text(directory) == finished().text
    assert call("verify", directory).code == 0


def test_ctrl_c_on_a_real_process_leaves_no_words_of_pythons(folder, tmp_path):
    """The whole group gets it, with a worker that is at work and has all libraries loaded."""
    file = write_campaign(folder, workers={"pool": "local", "count": 1}, budget={"evaluations": 500})
    command = [sys.executable, "-m", "evomerge.cli", "run", str(file), "--dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        end = time.monotonic() + 300
        while _evaluated(tmp_path / "run") < 3:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert "go on with: evomerge run" in err
    assert not re.search("resource_tracker|leaked|Traceback|Exception", err), err


def test_a_stop_as_json(folder, tmp_path):
    file = write_campaign(folder)
    run = Forked(tmp_path, "run", file, "--dir", tmp_path / "run", "--json")
    run.wait_until(lambda: _evaluated(tmp_path / "run") >= 3)
    run.signal(signal.SIGTERM)
    stopped = run.wait()
    assert stopped.code == 75
    assert "stopped by SIGTERM" in stopped.json["errors"][0]["wrong"]


def test_the_live_display(folder, tmp_path):
    file = write_campaign(folder, budget={"evaluations": 10})
    code, received = in_terminal("run", file, "--dir", tmp_path / "run")
    assert code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received)
    assert "10/10 evaluations" in text
    assert re.search(r"hypervolume \d\.\d{4} [▁-█]* \(search scores\)", text)
    assert re.search(r"pets\.acc +[\d.]+ % +\w+ +[\d.]+ % +(math|code)", text)
    assert "failed: none" in text
    assert "tiny: front of " in text
    assert "Traceback" not in text


def test_the_display_honours_no_color(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    for console in (log_console(), table_console()):
        assert isinstance(console, Console)
        assert console.no_color


def test_a_campaign_in_use(folder, tmp_path):
    file = write_campaign(folder)
    (tmp_path / "run").mkdir()
    # A record lock does not hold off its own process, so the second driver is a child.
    with RecordFile.open(tmp_path / "run" / "ledger.jsonl", create=True):
        second = Forked(tmp_path / "out", "run", file, "--dir", tmp_path / "run").wait()
    assert second.code == 6
    assert "error[E501]" in second.err


def test_a_folder_of_something_else(folder, tmp_path):
    (tmp_path / "thesis.tex").touch()
    found = call("run", write_campaign(folder), "--dir", tmp_path)
    assert found.code == 3
    assert "error[E135]" in found.err


def test_every_fault_before_anything_runs(folder, tmp_path):
    file = tmp_path / "campaign.yaml"
    file.write_text("schema: 1\nname: x\nsed: 4\nbase: {path: b}\nexperts: {}\nbudget: {hours: 0}\n")
    for verb in (("check", file), ("run", file, "--dir", tmp_path / "run")):
        found = call(*verb)
        assert found.code == 3
        assert re.search(r"error\[E104\] \S+campaign.yaml:3:\d+ sed: unknown field", found.err)
        assert found.err.count("error[") >= 5
        assert all(line.startswith("error[E") for line in found.err.splitlines())
    assert not (tmp_path / "run").exists()


def test_checkpoint_faults_have_their_own_exit_code(folder, tmp_path):
    file = write_campaign(folder, base={"path": "models/none"})
    for verb in (("check", file), ("run", file, "--dir", tmp_path / "run")):
        found = call(*verb)
        assert found.code == 4
        assert "error[E201]" in found.err
    assert not (tmp_path / "run").exists()


def test_check_estimates(folder):
    file = write_campaign(folder)
    found = call("check", file)
    assert found.code == 0, found.err
    rows = dict(line.split(maxsplit=1) for line in found.out.splitlines())
    assert rows["campaign"] == "tiny: 2 experts, no faults found"
    assert rows["budget"] == "18 evaluations after 6 baselines"
    assert rows["memory"].startswith("about ")
    data = call("check", file, "--json").json
    assert data["genes"] > 0
    assert set(data["paths"]) == {"base", "math", "code"}
    assert data["estimates"]["evaluations"] == 18
    assert data["items"]["pets"] == {"search": 24, "selection": 16, "test": 16}
    assert data["weights"] is None
    assert rows["weights"].startswith("not read: NaN")
    assert rows["items"] == "48 search items a candidate; 32 selection items and 32 test items"
    assert call("check", file, "--dir", folder / "run").code == 2


def test_a_missing_campaign_file(tmp_path):
    found = call("check", tmp_path / "campaign.yaml")
    assert found.code == 3
    assert "error[E101]" in found.err
