"""The ledger keeps what it acknowledged, drops only what was torn, and finds every other change."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.errors import CampaignInUse, EnvironmentFault, LedgerDamaged
from evomerge.ledger.record_lines import FORMAT, encode
from evomerge.ledger.records import RecordFile, read_records, repair
from tests.ledger.writer import Writer

EVENTS = [
    {"event": "campaign", "evomerge": "0.1.0", "name": "Prüfung \n JJ**"},
    {"event": "asked", "candidates": [{"id": "c00000", "genome": [0.1, 1e-17, -0.0, 1 / 3]}]},
    {"event": "evaluated", "id": "c00000", "values": {"math.acc": 0.5}, "failed": None},
    {"event": "told", "generation": 0, "state": "ab" * 32},
    {"event": "stopped", "reason": "budget"},
]


def write(path, events=EVENTS):
    with RecordFile.open(path, create=True) as ledger:
        for event in events:
            ledger.append(event)
    return path.read_bytes()


def reopened(path):
    with RecordFile.open(path, create=False) as ledger:
        return list(ledger.records)


def without_own_fields(events):
    return [{k: v for k, v in e.items() if k not in ("n", "format")} for e in events]


def test_records_taken_together_are_those_taken_one_by_one(tmp_path, monkeypatch):
    one_by_one = write(tmp_path / "one")
    syncs, sync = [], os.fsync
    with RecordFile.open(tmp_path / "all", create=True) as ledger:
        monkeypatch.setattr(
            os, "fsync", lambda descriptor: (syncs.append(descriptor), sync(descriptor))
        )
        assert ledger.append_all([]) == []
        first = ledger.append_all(EVENTS[:2])
        rest = ledger.append_all(EVENTS[2:])
        assert len(syncs) == 2
        with pytest.raises(ValueError, match=r"finite numbers only; found nan at `x`"):
            ledger.append_all([EVENTS[0], {"x": float("nan")}])
    assert (tmp_path / "all").read_bytes() == one_by_one
    assert [*first, *rest] == read_records(tmp_path / "one")


def test_a_death_amid_several_records_leaves_some_of_the_first(tmp_path):
    data = write(tmp_path / "ledger")
    ends = [end for end in range(len(data)) if data[end : end + 1] == b"\n"]
    for cut in (ends[0], ends[1] - 3, ends[1] + 1, ends[2] + 5):
        (tmp_path / "cut").write_bytes(data[:cut])
        kept = sum(end < cut for end in ends)
        assert read_records(tmp_path / "cut") == read_records(tmp_path / "ledger")[:kept]


def test_events_come_back_as_they_were_and_the_format_is_as_documented(tmp_path):
    path = tmp_path / "ledger.jsonl"
    data = write(path)
    assert without_own_fields(reopened(path)) == EVENTS
    assert read_records(path) == reopened(path)
    assert [event["n"] for event in read_records(path)] == list(range(len(EVENTS)))
    assert read_records(path)[0]["format"] == FORMAT
    everything = b""
    for line in data.decode("ascii").splitlines():
        crc, payload = line.split(" ", 1)
        everything += payload.encode()
        assert crc == f"{zlib.crc32(everything):08x}"
        assert payload == json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":"))


def test_floats_come_back_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**62, size=500).view(np.float64)
    write(tmp_path / "ledger", [{"values": values.tolist()}])
    assert np.array(read_records(tmp_path / "ledger")[0]["values"]).tobytes() == values.tobytes()


def test_events_read_so_far_are_those_on_disk_while_writing(tmp_path):
    path = tmp_path / "ledger"
    with RecordFile.open(path, create=True) as ledger:
        given_event = {"genome": [0.5, 1]}
        written = ledger.append(given_event)
        assert [written] == read_records(path) == [{"n": 0, "format": 1, "genome": [0.5, 1]}]
        assert ledger.count == 1
        assert given_event == {"genome": [0.5, 1]}


def test_cut_anywhere_in_the_last_three_records_loses_only_the_torn_one(tmp_path, caplog):
    whole = write(tmp_path / "whole")
    events = read_records(tmp_path / "whole")
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "ledger"
    for cut in range(ends[-4], len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert read_records(path) == events[:kept]
        caplog.clear()
        with RecordFile.open(path, create=False) as ledger:
            assert ledger.records == events[:kept]
            assert ("dropped an unfinished record" in caplog.text) == (cut not in ends)
            ledger.append(EVENTS[0])
        assert without_own_fields(read_records(path)) == [*EVENTS[:kept], EVENTS[0]]


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_ledger_cut_in_its_first_record_is_empty(tmp_path, cut):
    path = tmp_path / "ledger"
    path.write_bytes(write(tmp_path / "whole")[:cut])
    assert reopened(path) == []
    assert path.read_bytes() == b""


def test_a_tail_of_zeros_is_torn(tmp_path):
    # Some file systems grow a file before its data arrive; a power cut between the two leaves zeros.
    path = tmp_path / "ledger"
    whole = write(path)
    path.write_bytes(whole + bytes(700))
    assert len(reopened(path)) == len(EVENTS)
    path.write_bytes(bytes(300))
    assert reopened(path) == []


def test_one_bit_flipped_anywhere_before_the_last_record_is_found(tmp_path):
    whole = write(tmp_path / "whole", EVENTS[:3])
    last = whole[:-1].rfind(b"\n") + 1
    path = tmp_path / "ledger"
    for position in range(last):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(LedgerDamaged, match="E502"):
                read_records(path)


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), seed=st.integers(0, 99))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_bit_flipped_in_a_long_ledger_is_found_and_repaired(tmp_path, position, bit, seed):
    source = tmp_path / f"long{seed}"
    if not source.exists():
        rng = np.random.default_rng(seed)
        write(source, [{"g": rng.random(int(rng.integers(6))).tolist()} for _ in range(12)])
    whole = source.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    damaged = bytearray(whole)
    damaged[int(position * last)] ^= 1 << bit
    path, out = tmp_path / "ledger", tmp_path / "repaired"
    path.write_bytes(damaged)
    before = path.read_bytes()
    with pytest.raises(LedgerDamaged, match="repair") as caught:
        RecordFile.open(path, create=False)
    record = whole.count(b"\n", 0, int(position * last))
    start = whole.rfind(b"\n", 0, int(position * last)) + 1
    assert f"record {record} at byte {start:,}" in str(caught.value)
    assert path.read_bytes() == before
    out.unlink(missing_ok=True)
    found = repair(path, out)
    assert read_records(out) == read_records(source)[: found.kept]
    assert found.kept == record
    assert all(event in read_records(source)[record + 1 :] for event in found.salvaged)
    assert len(found.salvaged) >= 12 - record - 3


@pytest.mark.parametrize("change", ["delete", "swap", "double", "foreign"])
def test_lines_that_are_lost_moved_repeated_or_foreign_are_found(tmp_path, change):
    lines = write(tmp_path / "whole").splitlines(keepends=True)
    other = write(tmp_path / "other", [{"event": "x"}, *EVENTS[1:]]).splitlines(keepends=True)
    changed = {
        "delete": lines[:1] + lines[2:],
        "swap": [lines[0], lines[2], lines[1], *lines[3:]],
        "double": [*lines[:2], lines[1], *lines[2:]],
        "foreign": [lines[0], other[1], *lines[2:]],
    }[change]
    path = tmp_path / "ledger"
    path.write_bytes(b"".join(changed))
    with pytest.raises(LedgerDamaged, match=r"E502.*record [12] at byte"):
        read_records(path)


def test_damage_just_before_a_torn_tail_is_not_taken_for_the_tail(tmp_path):
    whole = write(tmp_path / "whole")
    last = whole[:-1].rfind(b"\n")
    path = tmp_path / "ledger"
    path.write_bytes(whole[:last] + b"\x0b" + whole[last + 1 : -20])
    with pytest.raises(LedgerDamaged, match=r"E502.*record 3 at byte"):
        RecordFile.open(path, create=False)


@pytest.mark.parametrize("content", [b"schema: 1\nname: x", b"# notes", b"\x89PNG\r\n"])
def test_a_file_that_is_no_ledger_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.yaml"
    path.write_bytes(content)
    with pytest.raises(LedgerDamaged, match=r"E502.*record 0 at byte 0"):
        RecordFile.open(path, create=True)
    assert path.read_bytes() == content


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "ledger"
    payload = b'{"evomerge":"9.9","format":2,"n":0}'
    path.write_bytes(b"%08x %b\nwhatever\n" % (zlib.crc32(payload), payload))
    with pytest.raises(LedgerDamaged, match=r"E503.*by evomerge 9\.9 in format 2, .* up to 1"):
        read_records(path)
    with pytest.raises(LedgerDamaged, match="E503"):
        repair(path, tmp_path / "out")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan")])
def test_numbers_that_are_not_finite_are_refused_and_nothing_is_written(tmp_path, bad):
    with RecordFile.open(tmp_path / "ledger", create=True) as ledger:
        ledger.append(EVENTS[0])
        before = ledger.path.read_bytes()
        with pytest.raises(ValueError, match=r"finite numbers only; found .* at `scores\.acc\[1\]`"):
            ledger.append({"scores": {"acc": [0.5, bad]}})
        with pytest.raises(ValueError, match="the ledger sets n itself"):
            ledger.append({"n": 3})
        assert ledger.path.read_bytes() == before
        ledger.append(EVENTS[1])
    assert without_own_fields(read_records(ledger.path)) == EVENTS[:2]


def test_a_second_writer_is_refused_by_name_and_readers_are_not(tmp_path):
    path = tmp_path / "ledger"
    write(path)
    script = f"""
from evomerge.ledger.records import RecordFile, read_records
print(len(read_records({str(path)!r})), flush=True)
RecordFile.open({str(path)!r}, create=False)
"""
    with RecordFile.open(path, create=False):
        with pytest.raises(CampaignInUse, match=rf"E501.*pid {os.getpid()}, since 2\d\d\d-"):
            RecordFile.open(path, create=False)
        # Who waited for the lock would wait for this test.
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=240
        )
        assert done.returncode != 0
        assert done.stdout.split() == [str(len(EVENTS))]
        assert f"pid {os.getpid()}" in done.stderr
        assert "CampaignInUse" in done.stderr
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_a_lock_of_another_host_that_renews_no_lease_is_refused(tmp_path):
    path = tmp_path / "ledger"
    write(path)
    lock = path.with_name("ledger.lock")
    assert lock.read_bytes() == b""
    lock.write_text(json.dumps({"host": "node7", "pid": 12, "since": "2026-01-01T00:00:00Z"}))
    with pytest.raises(CampaignInUse, match=r"host node7, pid 12.*evomerge run --takeover"):
        RecordFile.open(path, create=False)
    lock.write_text("{torn")
    assert len(reopened(path)) == len(EVENTS)


def test_a_forked_child_neither_keeps_the_lock_nor_gives_it_up(tmp_path):
    path = tmp_path / "ledger"
    script = f"""
import os, sys, time
from evomerge.ledger.records import RecordFile
ledger = RecordFile.open({str(path)!r}, create=True)
ledger.append({{"event": "x"}})
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
if os.fork() == 0:
    ledger.close()
    os._exit(0)
os.wait()
print(child, flush=True)
time.sleep(60)
"""
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    child = int(driver.stdout.readline())
    try:
        with pytest.raises(CampaignInUse, match=f"pid {driver.pid}"):
            RecordFile.open(path, create=False)
        driver.kill()
        driver.wait()
        assert len(reopened(path)) == 1
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
        os.kill(child, signal.SIGKILL)


def test_a_missing_ledger_is_made_only_on_request(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ledger at"):
        RecordFile.open(tmp_path / "ledger", create=False)
    with pytest.raises(EnvironmentFault, match=r"E408.*absent"):
        RecordFile.open(tmp_path / "absent" / "ledger", create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_ledger_and_one_changed_by_others_take_nothing(tmp_path):
    ledger = RecordFile.open(tmp_path / "ledger", create=True)
    ledger.append(EVENTS[0])
    with ledger.path.open("ab") as other:
        other.write(b"x")
    with pytest.raises(RuntimeError, match="its size changed since the last append"):
        ledger.append(EVENTS[1])
    ledger.close()
    ledger.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        ledger.append(EVENTS[1])
    assert len(reopened(ledger.path)) == 1


@pytest.mark.parametrize("limit", [300, 301, 350, 377, 1000])
def test_a_full_disk_ends_in_a_named_fault_and_a_sound_ledger_that_can_go_on(tmp_path, limit):
    path = tmp_path / "ledger"

    def fill(say):
        ledger = RecordFile.open(path, create=True)
        count = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for _ in range(2):
            try:
                while True:
                    ledger.append({"event": "evaluated", "values": [0.1] * 9})
                    count += 1
            except EnvironmentFault as error:
                say(f"{count} {error.exit_code} {error}")
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * limit, resource.RLIM_INFINITY))

    writer = Writer(fill)
    first, second = writer.wait()
    assert writer.returncode == 0
    assert first.split()[1] == "5"
    assert "E403" in first
    assert str(path) in first
    assert int(second.split()[0]) > int(first.split()[0])
    data = path.read_bytes()
    assert len(read_records(path)) == int(second.split()[0]) == data.count(b"\n")
    assert data.endswith(b"\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_a_named_fault(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentFault, match="E408"):
        RecordFile.open(tmp_path / "ledger", create=True)


def start_writer(path: Path, count: int, failpoints: str = "") -> Writer:
    def write_on(say):
        with RecordFile.open(path, create=True) as ledger:
            start = len(ledger.records)
            for number in range(start, start + count):
                ledger.append({"event": "evaluated", "number": number, "values": [number / 7] * 20})
                say(number)

    return Writer(write_on, failpoints)


def test_sigkill_at_random_moments_loses_nothing_acknowledged(tmp_path):
    path = tmp_path / "ledger"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    acknowledged = -1
    for _ in range(12):
        writer = start_writer(path, 10**6)
        first = int(writer.said.readline())
        time.sleep(float(rng.uniform(0.0, 0.05)))
        writer.kill()
        rest = [int(line) for line in writer.wait()]
        assert first in (acknowledged + 1, acknowledged + 2)
        acknowledged = max([first, *rest])
        numbers = [event["number"] for event in read_records(path)]
        assert numbers == list(range(len(numbers)))
        # One more may be on disk: written, but killed before it was acknowledged.
        assert len(numbers) - 1 in (acknowledged, acknowledged + 1)
    assert [event["number"] for event in reopened(path)] == numbers


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("ledger.before_append", 2),
        ("ledger.mid_append", 2),
        ("ledger.after_write", 3),
        ("ledger.after_fsync", 3),
        ("ledger.after_open_fsync", 0),
    ],
)
def test_sigkill_at_every_failpoint(tmp_path, name, kept):
    path = tmp_path / "ledger"
    hit = "@3" if "open" not in name else ""
    writer = start_writer(path, 5, f"{name}=kill{hit}")
    acknowledged = writer.wait()
    assert writer.returncode == -signal.SIGKILL
    assert len(acknowledged) == min(kept, 2)
    assert len(reopened(path)) == kept
    assert start_writer(path, 2).wait() == [str(kept), str(kept + 1)]


def test_sigkill_while_a_torn_tail_is_dropped(tmp_path):
    path = tmp_path / "ledger"
    whole = write(path)
    path.write_bytes(whole[:-9])
    writer = start_writer(path, 1, "ledger.before_truncate=kill")
    assert writer.wait() == []
    assert writer.returncode == -signal.SIGKILL
    assert len(reopened(path)) == len(EVENTS) - 1


@pytest.mark.parametrize("name", ["ledger.mid_append", "ledger.after_write"])
def test_an_exception_halfway_takes_the_record_back(tmp_path, monkeypatch, name):
    path = tmp_path / "ledger"
    with RecordFile.open(path, create=True) as ledger:
        ledger.append(EVENTS[0])
        monkeypatch.setattr("evomerge.failpoint._armed", {name: ("raise", 1)})
        with pytest.raises(RuntimeError, match=f"failpoint {name}"):
            ledger.append(EVENTS[1])
        ledger.append(EVENTS[2])
    assert without_own_fields(read_records(path)) == [EVENTS[0], EVENTS[2]]


def test_append_and_replay_are_quick_enough_to_print(tmp_path, capsys):
    path = tmp_path / "ledger"
    seconds = []
    with RecordFile.open(path, create=True) as ledger:
        for _ in range(300):
            event = {"event": "asked", "genome": [0.123] * 100}
            began = time.perf_counter()
            ledger.append(event)
            seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    assert len(read_records(path)) == 300
    replay = time.perf_counter() - began
    with capsys.disabled():
        median, tail = np.percentile(seconds, [50, 99]) * 1e3
        print(f"\nledger: append p50 {median:.2f} ms, p99 {tail:.2f} ms", end="; ")
        print(f"300 events read in {replay * 1e3:.1f} ms")


def test_a_record_with_another_number_is_found_although_its_checksum_fits(tmp_path):
    path = tmp_path / "ledger"
    first, crc = encode({"event": "campaign", "n": 0, "format": FORMAT}, 0)
    for number in (0, 2, None):
        second, _ = encode({"event": "stopped", "n": number}, crc)
        path.write_bytes(first + second + first)
        with pytest.raises(LedgerDamaged, match=r"E502.*record 1 at byte .*it has another number"):
            read_records(path)
