"""Taking a ledger over: a lease that ran out, a writer that wakes up, two at once; with real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CampaignInUse, EnvironmentFault
from evomerge.ledger import lock, records, takeover
from evomerge.ledger.lock import LedgerLock
from evomerge.ledger.records import RecordFile, read_records
from tests.durability import ENDS, Disk, End
from tests.tiny_runs import forked

NODE7 = {"host": "node7", "pid": 12, "since": "2026-01-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this process and its forks."""
    monkeypatch.setattr(lock, "LEASE", 0.3)
    monkeypatch.setattr(lock, "BEAT", 0.05)


def names(path: Path) -> list[str]:
    return [record["event"] for record in read_records(path)]


def stop_here() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def writes(path: Path, before_last: Callable[[], None] = stop_here) -> None:
    """What a driver does that is stopped after its first record; exits with 6 if it may not write another."""
    ledger = RecordFile.open(path, create=True)
    ledger.append({"event": "old-0"})
    before_last()
    try:
        ledger.append({"event": "old-1"})
    except CampaignInUse as error:
        if "another driver has taken this campaign over" not in str(error):
            raise
        with pytest.raises(RuntimeError, match="another driver has taken it over"):
            ledger.append({"event": "old-2"})
        os._exit(6)


@contextmanager
def stopped(action: Callable[[], None]) -> Iterator[int]:
    """A forked child that does something until it stops itself; gone at the end."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status
        yield child
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def woken(child: int) -> int:
    """Its exit code, after SIGCONT."""
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_fenced_off_writer_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with stopped(lambda: writes(path)) as child:
        with pytest.raises(CampaignInUse, match=rf"pid {child}, .*`evomerge run --takeover`"):
            RecordFile.open(path, create=True)
        with RecordFile.open(path, create=True, take_over=True) as ledger:
            assert [record["event"] for record in ledger.records] == ["old-0"]
            ledger.append({"event": "new-1"})
            assert woken(child) == 6
            ledger.append({"event": "new-2"})
    assert names(path) == ["old-0", "new-1", "new-2"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "ledger", "ledger.lock", "ledger.lock.turn",
    ]  # fmt: skip
    with RecordFile.open(path, create=False) as ledger:
        assert ledger.count == 3


def test_a_write_that_was_on_its_way_is_read_by_nobody(tmp_path: Path) -> None:
    """Stopped after it has looked at the lock, before it writes."""
    path = tmp_path / "ledger"

    def between(name: str) -> None:
        if name == "ledger.before_append":
            stop_here()

    def action() -> None:
        writes(path, lambda: setattr(records, "failpoint", between))

    with stopped(action) as child, RecordFile.open(path, create=True, take_over=True) as ledger:
        ledger.append({"event": "new-1"})
        assert woken(child) == 6
        ledger.append({"event": "new-2"})
    assert names(path) == ["old-0", "new-1", "new-2"]


def test_what_was_acknowledged_while_it_was_taken_over_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may show a writer the lock as it was a moment ago."""
    path = tmp_path / "ledger"

    def blind() -> None:
        stop_here()
        LedgerLock.check = lambda self: None  # type: ignore[method-assign]

    with stopped(lambda: writes(path, blind)) as child:
        codes = []

        def wakes(name: str) -> None:
            if name == "ledger.copied":
                codes.append(woken(child))

        monkeypatch.setattr(takeover, "failpoint", wakes)
        with RecordFile.open(path, create=True, take_over=True) as ledger:
            ledger.append({"event": "new-2"})
        assert codes == [0], "it was acknowledged"
    assert names(path) == ["old-0", "old-1", "new-2"]


def test_a_lease_that_is_renewed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"

    def action() -> None:
        def lives() -> None:
            stop_here()
            time.sleep(60)

        writes(path, lives)

    with stopped(action) as child:
        os.kill(child, signal.SIGCONT)
        monkeypatch.setattr(lock, "LEASE", 30.0)
        with pytest.raises(CampaignInUse, match=rf"pid {child}, .*it has just renewed its lease"):
            RecordFile.open(path, create=True, take_over=True)
    assert names(path) == ["old-0"]


@pytest.mark.parametrize("shift", [-86400.0, 86400.0])
def test_another_hosts_driver_is_watched_and_no_clock_of_the_wall_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shift: float
) -> None:
    path = tmp_path / "ledger"
    signed = tmp_path / "ledger.lock"
    with RecordFile.open(path, create=True) as ledger:
        ledger.append({"event": "old-0"})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + shift)
    signed.write_text(json.dumps(NODE7 | {"beat": 3}))
    with RecordFile.open(path, create=False) as ledger:
        ledger.append({"event": "new-1"})
    assert "held by pid 12 on node7; watching for 0.3 s" in caplog.text
    assert "has not renewed its lease; taking over" in caplog.text
    assert names(path) == ["old-0", "new-1"]
    signed.write_text(json.dumps(NODE7))
    with pytest.raises(
        CampaignInUse, match=r"host node7, pid 12.*if that driver is dead, .*--takeover"
    ):
        RecordFile.open(path, create=False)
    with RecordFile.open(path, create=False, take_over=True) as ledger:
        assert ledger.count == 2


def test_another_hosts_driver_that_lives_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    RecordFile.open(path, create=True).close()
    signed = tmp_path / "ledger.lock"
    beats = iter(range(1000))

    def sleep(seconds: float) -> None:
        signed.write_text(json.dumps(NODE7 | {"beat": next(beats)}))

    sleep(0.0)
    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(CampaignInUse, match=r"host node7, .*it has just renewed its lease"):
        RecordFile.open(path, create=False)


def test_of_two_that_take_over_at_once_one_does(tmp_path: Path) -> None:
    path = tmp_path / "ledger"

    def takes() -> None:
        try:
            ledger = RecordFile.open(path, create=True, take_over=True)
        except CampaignInUse:
            os._exit(6)
        ledger.append({"event": "new"})
        stop_here()  # holds it until the other has seen

    with stopped(lambda: writes(path)) as child:
        pids = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                takes()
                os._exit(0)
            pids.append(pid)
        states: dict[int, Any] = {}
        while len(states) < 2:
            pid, status = os.waitpid(-1, os.WUNTRACED)
            states[pid] = "holds" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        winner = next(pid for pid, state in states.items() if state == "holds")
        assert sorted(map(str, states.values())) == ["6", "holds"]
        assert woken(winner) == 0
        assert woken(child) == 6
    assert names(path) == ["old-0", "new"]
    assert set(pids) == set(states)


def test_a_takeover_that_is_killed_is_ended_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "ledger"

    def between(name: str) -> None:
        if name == "ledger.before_append":
            stop_here()

    def action() -> None:
        writes(path, lambda: setattr(records, "failpoint", between))

    def takes() -> None:
        RecordFile.open(path, create=True, take_over=True)

    with stopped(action) as child:
        assert forked(takes, "ledger.copied=kill") == -signal.SIGKILL
        with RecordFile.open(path, create=True) as ledger:
            assert woken(child) == 6
            ledger.append({"event": "new-1"})
    assert names(path) == ["old-0", "new-1"]


@pytest.mark.parametrize("end", ENDS)
def test_a_copy_is_on_the_disk_before_it_has_the_name(tmp_path: Path, end: End) -> None:
    path = tmp_path / "ledger"
    with Disk(tmp_path) as disk:
        with RecordFile.open(path, create=True) as ledger:
            ledger.append({"event": "old-0"})
        content = path.read_bytes()
        takeover.put_out_of_reach(path, lambda: None)
        assert disk.left(end)["ledger"] == content


@pytest.mark.parametrize("where", ["ledger.copied", "ledger.copy_checked"])
def test_a_takeover_that_slept_takes_nothing_from_who_took_over_next(
    tmp_path: Path, where: str
) -> None:
    """It wakes up with an old copy in its hands."""
    path = tmp_path / "ledger"
    with RecordFile.open(path, create=True) as ledger:
        ledger.append({"event": "old-0"})
    (tmp_path / "ledger.lock").write_text(json.dumps(NODE7 | {"beat": 3}))

    def sleeps(name: str) -> None:
        if name == where:
            stop_here()

    def takes() -> None:
        takeover.failpoint = sleeps
        try:
            RecordFile.open(path, create=True)
        except CampaignInUse as error:
            os._exit(6 if "another driver has taken this campaign over" in str(error) else 7)

    with stopped(takes) as child, RecordFile.open(path, create=True, take_over=True) as ledger:
        ledger.append({"event": "new-1"})
        assert woken(child) == 6
        ledger.append({"event": "new-2"})
    assert names(path) == ["old-0", "new-1", "new-2"]
    assert not list(tmp_path.glob(".ledger*"))


def test_two_that_signed_the_same_file_do_not_both_write(tmp_path: Path) -> None:
    """Hosts that do not see one another's locks, at the same moment: the last signature counts."""
    path = tmp_path / "ledger"
    signed = tmp_path / "ledger.lock"
    other = NODE7 | {"token": "of another", "beat": 0}
    with RecordFile.open(path, create=True) as ledger:
        ledger.append({"event": "mine-0"})
        with signed.open("r+b") as file:
            file.write(json.dumps(other).encode().ljust(signed.stat().st_size))
        time.sleep(0.2)  # several beats
        with pytest.raises(CampaignInUse, match=r"another driver has taken this campaign over.*node7"):
            ledger.append({"event": "mine-1"})
    assert names(path) == ["mine-0"]
    assert json.loads(signed.read_bytes()) == other, "neither renewed over nor signed off"


def test_a_takeover_in_vain_closes_nothing_of_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = tmp_path / "ledger.lock"
    signed.write_text(json.dumps(NODE7 | {"beat": 3}))
    opened: list[int] = []

    def in_vain(path: Path, holder: dict[str, Any]) -> LedgerLock:
        opened.append(os.open(tmp_path, os.O_RDONLY))  # another thread's: takes a number that is free
        raise CampaignInUse("somebody was quicker")

    monkeypatch.setattr(lock, "_replaced", in_vain)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CampaignInUse, match="quicker"):
        LedgerLock.acquire(signed)
    os.fstat(opened[0])
    os.close(opened[0])
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    signed.write_text("")
    LedgerLock.acquire(signed).release()


def test_an_interrupt_while_it_is_copied_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    RecordFile.open(path, create=True).close()
    (tmp_path / "ledger.lock").write_text(json.dumps(NODE7 | {"beat": 3}))

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt(name)

    monkeypatch.setattr(takeover, "failpoint", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^ledger\.copied$"):
        RecordFile.open(path, create=False)


def test_a_lock_that_cannot_be_looked_at_is_a_fault_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"

    def fails(self: LedgerLock) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with RecordFile.open(path, create=True) as ledger:
        ledger.append({"event": "old-0"})
        monkeypatch.setattr(LedgerLock, "check", fails)
        with pytest.raises(EnvironmentFault, match=r"(?s)E408.*ledger\.lock.*Input/output error"):
            ledger.append({"event": "old-1"})
        with pytest.raises(RuntimeError, match="open it again"):
            ledger.append({"event": "old-1"})
    assert names(path) == ["old-0"]
