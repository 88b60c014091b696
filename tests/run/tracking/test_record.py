"""What trackers are told: the same live and from the ledger."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evomerge.errors import EnvironmentFault
from evomerge.front.folder import open_campaign_folder
from evomerge.front.trace import trace
from evomerge.ledger.events import EvaluatedEvent
from evomerge.ledger.history import LEDGER_FILE, History
from evomerge.ledger.ledger import read_events
from evomerge.run.progress import Display, Displays, Progress
from evomerge.run.tracking.display import Tracked
from evomerge.run.tracking.open import require
from evomerge.run.tracking.record import Record, Recorder, about
from tests.cli.terminal import call
from tests.hand_made import asked, begin, failed, scored
from tests.tiny_runs import Finished, finished, run_file


@pytest.fixture
def campaign() -> Finished:
    return finished()


def replay(recorder: Recorder, events: list) -> list[Record]:
    history, found = History(), []
    for event in events:
        history.apply(event)
        found += recorder(history)
        found += recorder(history)  # asked again while nothing happens
    return found


def test_one_record_for_each_result() -> None:
    events = [
        *begin(),
        asked(0, "c00000", "c00001"),
        scored("c00000", {"a.acc": [0.5], "b.acc": [0.5]}),
    ]
    events += [failed("c00001")]
    found = replay(Recorder(), events)
    assert [record.step for record in found] == [0, 1, 2]
    assert found[0].values == {
        f"baseline/{name}/{metric}": value
        for name, pair in {"base": (0.2, 0.2), "math": (0.8, 0.2)}.items()
        for metric, value in zip(("a.acc", "b.acc"), pair, strict=True)
    }
    assert found[1].values["score/a.acc"] == found[1].values["best/a.acc"] == 0.5
    assert "score/a.acc" not in found[2].values
    assert found[2].values["failed/nonfinite_weights"] == 1.0
    assert found[2].values["evaluations"] == 2.0
    # A session that goes on tells only what is new.
    resumed = Recorder(skip_known=True)
    history = History.fold(events[:-1])
    assert resumed(history) == []
    history.apply(events[-1])
    assert resumed(history) == found[2:]


def test_a_real_campaign_ends_at_its_hypervolume(campaign: Finished) -> None:
    opened = open_campaign_folder(campaign.directory)
    found = replay(Recorder(), opened.events)
    points = trace(opened.history, opened.events, opened.history.stated.objectives)
    assert [r.values["hypervolume"] for r in found[1:]] == [p.hypervolume for p in points]
    assert about(opened.history).run == about(campaign.history).run
    assert about(opened.history, whole=True).run.endswith("-sync")


def test_no_result_of_a_later_session_is_left_out(campaign: Finished, tmp_path: Path) -> None:
    """Nor the first one, where workers answer before anybody waits for them."""
    shutil.copytree(campaign.file.parent, tmp_path / "campaign")
    directory = tmp_path / "campaign" / "run"
    events, ledger = read_events(directory / LEDGER_FILE), directory / LEDGER_FILE
    results = [event for event in events if isinstance(event, EvaluatedEvent) and event.id[0] == "c"]
    end = events.index(results[2]) + 1
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:end]))
    recorder, sent = Recorder(skip_known=True), list[Record]()
    observer = lambda history, progress: sent.extend(recorder(history))  # noqa: E731
    history = run_file(tmp_path / "campaign" / campaign.file.name, directory, observer=observer)
    known = History.fold(events[:end]).settled
    assert [record.step for record in sent] == list(range(known + 1, history.settled + 1))


def test_displays_begin_and_end_together(campaign: Finished) -> None:
    seen: list[str | int] = []

    class Shown(Display):
        def __call__(self, history: History, progress: Progress) -> None:
            seen.append(history.settled)

        def __enter__(self) -> Shown:
            seen.append("enter")
            return self

        def __exit__(self, *_: object) -> None:
            seen.append("exit")

    class Broken(Display):
        def __enter__(self) -> Broken:
            raise OSError("no terminal")

    with Displays([Tracked([], campaign.directory), Shown()]) as display:
        display(campaign.history, Progress("search", (), None, 1, 1.0))
    assert seen == ["enter", campaign.history.settled, "exit"]
    with pytest.raises(OSError, match="no terminal"), Displays([Shown(), Broken()]):
        pass
    assert seen[3:] == ["enter", "exit"]  # what had begun has ended


def test_a_missing_library_is_said_before_anything_begins(campaign: Finished, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        EnvironmentFault, match=r"E412.*needs wandb; it is not installed; pip install 'ev"
    ):
        require("wandb")
    found = call("run", campaign.file, "--dir", campaign.directory, "--track", "mlflow")
    assert found.code == 5
    assert "E412" in found.err
    assert "E412" in call("sync", campaign.directory, "tensorboard").err


def test_tensorboard_reads_what_sync_wrote(campaign: Finished, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.copytree(campaign.directory, tmp_path / "run")
    for _ in range(2):  # again, in place of what was there
        found = call("sync", tmp_path / "run", "tensorboard")
        assert found.code == 0, found.err
    opened = open_campaign_folder(campaign.directory)
    [folder] = (tmp_path / "run" / "tracking" / "tensorboard").iterdir()
    read = EventAccumulator(str(folder))
    read.Reload()
    volumes = [(e.step, e.value) for e in read.Scalars("hypervolume")]
    wanted = trace(opened.history, opened.events, opened.history.stated.objectives)
    assert volumes == [
        (n, pytest.approx(p.hypervolume, rel=1e-6)) for n, p in enumerate(wanted, start=1)
    ]
    assert "front/members" in read.Tags()["scalars"]


def test_mlflow_keeps_what_sync_sent(campaign: Finished, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    found = call("sync", campaign.directory, "mlflow")
    assert found.code == 0, found.err
    files = list((tmp_path / "mlruns").rglob("metrics/hypervolume"))
    assert len(files) == 1
    assert len(files[0].read_text().splitlines()) == campaign.history.settled


def test_wandb_takes_what_sync_sends_without_a_network(
    campaign: Finished, monkeypatch, tmp_path
) -> None:
    pytest.importorskip("wandb")

    monkeypatch.setenv("WANDB_MODE", "offline")
    shutil.copytree(campaign.directory, tmp_path / "run")
    found = call("sync", tmp_path / "run", "wandb")
    assert found.code == 0, found.err
    assert list((tmp_path / "run" / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
