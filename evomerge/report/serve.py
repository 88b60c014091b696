"""A report served on loopback while its campaign runs; the page looks for news and loads itself again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from evomerge.errors import EnvironmentFault, EvomergeError, Problem
from evomerge.ledger.history import LEDGER_FILE
from evomerge.report.content import read_content
from evomerge.report.page import render

ADDRESS = "127.0.0.1"
LOOK_EVERY = 2.0
"""Seconds between two looks at the ledger."""


class ReportServer:
    """Keeps the page of a campaign folder and serves it; as a context, from entry to exit.

    A thread looks at the ledger and makes the page again where it has grown. Requests get the last whole
    page; those that name another host are refused, so that no page of the web reads it by a name of its own.

    Args:
        directory: of the campaign.
        rivals: as in `read_content`.
        port: 0 for one that is free.
        warn: told of a page that could not be made; the one before stays.

    Raises:
        UsageError, LedgerDamaged: as `read_content`, of the first page.
        EnvironmentFault: E408, the port cannot be had.
    """

    def __init__(
        self,
        directory: Path,
        rivals: Sequence[Path] = (),
        port: int = 0,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._directory, self._rivals, self._warn = directory, tuple(rivals), warn
        self.version = ""
        self.page = b""
        self._make(self._now())
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: requests are the page's own."""

        try:
            self._http = ThreadingHTTPServer((ADDRESS, port), Handler)
        except OSError as error:
            wrong = f"port {port} cannot be had"
            found = error.strerror or str(error)
            raise EnvironmentFault(Problem("E408", wrong, found, "give another --port")) from error
        self._http.daemon_threads = True
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._http.serve_forever, daemon=True),
            threading.Thread(target=self._look, daemon=True),
        ]

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{ADDRESS}:{self.port}/"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Until Ctrl-C."""
        self._ended.wait()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request: the page, its version, or a refusal."""
        status, kind, body = HTTPStatus.OK, "text/html; charset=utf-8", self.page
        if request.headers.get("Host") not in (f"{ADDRESS}:{self.port}", f"localhost:{self.port}"):
            status, kind, body = HTTPStatus.FORBIDDEN, "text/plain", b"this is not the host you mean\n"
        elif request.path == "/version":
            kind, body = "text/plain", self.version.encode()
        elif request.path != "/":
            status, kind, body = HTTPStatus.NOT_FOUND, "text/plain", b"there is one page: /\n"
        request.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ):
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def _now(self) -> str:
        try:
            return str((self._directory / LEDGER_FILE).stat().st_size)
        except OSError:
            return self.version

    def _make(self, version: str) -> None:
        content = read_content(self._directory, self._rivals)
        page = render({**content.context, "version": version}, content.data, served=True)
        self.page, self.version = page.encode(), version

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            version = self._now()
            if version == self.version:
                continue
            try:
                self._make(version)
            except (EvomergeError, OSError) as error:
                # A file of a network folder may be gone for a moment; the run must not lose its page.
                self._warn(str(error))
                self.version = version
