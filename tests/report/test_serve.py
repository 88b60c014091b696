"""A report served on loopback: who is answered, and that it follows the ledger."""

from __future__ import annotations

import http.client
import shutil
import time
from pathlib import Path

import pytest

from evomerge.errors import EnvironmentFault
from evomerge.ledger.history import LEDGER_FILE
from evomerge.ledger.records import RecordFile
from evomerge.report import serve
from evomerge.report.serve import ReportServer
from tests.report.made import rewritten, taken_apart, until
from tests.tiny_runs import events_of, finished


def answer(server: ReportServer, path: str, host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    found = connection.getresponse()
    body = found.read().decode()
    connection.close()
    return found.status, body, dict(found.getheaders())


def test_only_this_machine_is_answered_and_only_the_page() -> None:
    with ReportServer(finished().directory) as server:
        assert server.address == f"http://127.0.0.1:{server.port}/"
        status, body, heads = answer(server, "/")
        assert status == 200
        assert heads["Cache-Control"] == "no-store"
        assert heads["Content-Security-Policy"] == "frame-ancestors 'none'"
        page = taken_apart(body)
        assert page.policy["connect-src"] == ["'self'"]
        assert page.all("body")[0].attributes["data-version"] == answer(server, "/version")[1]
        assert answer(server, f"/{LEDGER_FILE}")[0] == answer(server, "/../run.log")[0] == 404
        for host in ("evil.example", f"evil.example:{server.port}", ""):
            assert answer(server, "/", host)[0] == 403, host


def test_it_follows_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "LOOK_EVERY", 0.05)
    folder = rewritten(tmp_path / "run", until("told"))
    rest = events_of(finished().directory)[len(events_of(folder)) :]
    with ReportServer(folder) as server:
        before = answer(server, "/version")[1]
        with RecordFile.open(folder / LEDGER_FILE, create=False) as ledger:
            for record in rest:
                ledger.append({k: v for k, v in record.items() if k not in ("n", "time", "elapsed")})
        whole = str((folder / LEDGER_FILE).stat().st_size)
        end = time.monotonic() + 120
        while answer(server, "/version")[1] != whole:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert before != whole
        page = taken_apart(answer(server, "/")[1])
    assert set(page.data["models"]["id"]) == set(finished().history.candidates)


def test_what_cannot_be_read_leaves_the_page_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "LOOK_EVERY", 0.05)
    folder = tmp_path / "run"
    shutil.copytree(finished().directory, folder)
    said: list[str] = []
    with ReportServer(folder, warn=said.append) as server:
        page = server.page
        content = (folder / LEDGER_FILE).read_bytes()
        (folder / LEDGER_FILE).write_bytes(
            content[: len(content) // 2] + b"x" + content[len(content) // 2 :]
        )
        end = time.monotonic() + 120
        while not said:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert server.page == page
    assert "E502" in said[0]


def test_a_file_that_is_gone_for_a_moment_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "LOOK_EVERY", 0.05)
    (tmp_path / LEDGER_FILE).write_bytes(b"1")
    content, said = serve.read_content(finished().directory), list[str]()

    def read(directory: Path, rivals: object) -> object:
        if (tmp_path / LEDGER_FILE).stat().st_size == 2:
            raise OSError("stale file handle")
        return content

    monkeypatch.setattr(serve, "read_content", read)
    with ReportServer(tmp_path, warn=said.append) as server:
        for size in (2, 3):
            (tmp_path / LEDGER_FILE).write_bytes(b"1" * size)
            end = time.monotonic() + 60
            while server.version != str(size):
                assert time.monotonic() < end
                time.sleep(0.05)
    assert said == ["stale file handle"]


def test_a_port_that_is_taken_is_named() -> None:
    with (
        ReportServer(finished().directory) as server,
        pytest.raises(EnvironmentFault, match=r"E408.*port \d+ cannot be had"),
    ):
        ReportServer(finished().directory, port=server.port)
