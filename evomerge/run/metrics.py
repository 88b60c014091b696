"""Metrics: where a run stands as Prometheus text, on a port of the loopback address that a person named."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from evomerge.errors import EnvironmentFault, Problem
from evomerge.ledger.history import History
from evomerge.run.pool.pool import WorkerState
from evomerge.run.progress import Display, Progress
from evomerge.run.standing import Standing
from evomerge.run.watch import Watch

HOST = "127.0.0.1"
EVERY = 1.0
"""Seconds between two looks: a run may record a thousand results in one."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metered(Display):
    """Serves where a run stands at `http://127.0.0.1:PORT/metrics`.

    Attributes:
        port: the one it listens on; a free one if 0 was asked for.
    """

    def __init__(self, port: int) -> None:
        """Listen.

        Raises:
            EnvironmentFault: E414, if the port cannot be had.
        """
        self._watch = Watch()
        self._text = b""
        self._due = 0.0
        try:
            self._server = ThreadingHTTPServer((HOST, port), self._handler())
        except (OSError, OverflowError) as error:
            wrong, todo = f"cannot listen on port {port} of {HOST}", "give another --metrics-port"
            raise EnvironmentFault(Problem("E414", wrong, str(error), todo)) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        metered = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                text = metered._text
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: whoever scrapes does so every few seconds."""

        return Handler

    def __call__(self, history: History, progress: Progress) -> None:
        """Take in where things stand."""
        if history.campaign and (time.monotonic() >= self._due or progress.phase == "done"):
            self._due = time.monotonic() + EVERY
            standing = self._watch(history, progress)
            running = len(progress.running)
            self._text = prometheus_text(standing, running, history.last, progress.look()).encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def prometheus_text(
    now: Standing, running: int, last: float, workers: Sequence[WorkerState] = ()
) -> str:
    """A standing in Prometheus' text format.

    Args:
        now: where the campaign stands.
        running: candidates under way.
        last: wall-clock seconds of the last event.
        workers: what each does.
    """
    campaign = f'campaign="{_escaped(now.campaign)}"'
    lines = []
    for name, meaning, values in [*_gauges(now, running, last), *_worker_gauges(workers)]:
        lines += [f"# HELP evomerge_{name} {meaning}", f"# TYPE evomerge_{name} gauge"]
        for labels, value in values:
            lines.append(f"evomerge_{name}{{{campaign}{labels}}} {value!r}")
    return "\n".join(lines) + "\n"


Values = list[tuple[str, float]]


def _gauges(now: Standing, running: int, last: float) -> Iterator[tuple[str, str, Values]]:
    """Name, meaning, and values by further labels; what is not known is left out."""
    plain: list[tuple[str, str, float | None]] = [
        ("evaluations", "Evaluations of the search that are settled.", now.evaluations),
        ("budget_evaluations", "Evaluations that the budget allows.", now.budget),
        ("cost_evaluations", "What of the budget is spent.", now.cost),
        ("baselines", "Baselines that are settled.", now.baselines[0]),
        ("running", "Candidates under way.", running),
        ("raced", "Candidates given up early.", now.raced),
        ("shared", "Evaluations found among results of other campaigns.", now.shared),
        ("attempts_lost", "Attempts that ended with their worker.", now.lost),
        ("hypervolume", "Hypervolume of the search scores.", now.hypervolume),
        ("evaluations_per_minute", "Pace.", now.pace),
        ("seconds_left", "Seconds to the end, roughly.", now.seconds_left),
        ("last_event_timestamp_seconds", "When the last event was recorded.", last),
    ]
    for name, meaning, value in plain:
        if value is not None:
            yield name, meaning, [("", float(value))]
    phase = [(f',phase="{_escaped(now.phase)}"', 1.0)]
    yield "phase", "What goes on.", phase
    if now.lost_to:
        spent = [(f',class="{_escaped(kind)}"', seconds) for kind, (_, seconds) in now.lost_to.items()]
        yield "lost_seconds", "Seconds of attempts that ended with their workers, by class.", spent
    failed = [(f',class="{_escaped(kind)}"', float(count)) for kind, count in now.failures.items()]
    if failed:
        yield "failed", "Failed candidates by class.", failed
    best = [(f',metric="{_escaped(best.metric)}"', float(best.value)) for best in now.best]
    if best:
        yield "best", "Best value of each objective on search items.", best


def _worker_gauges(workers: Sequence[WorkerState]) -> Iterator[tuple[str, str, Values]]:
    states = Counter(each.state for each in workers)
    if states:
        counted = [(f',state="{state}"', float(states[state])) for state in ("busy", "idle", "waiting")]
        yield "workers", "Workers by what they do.", counted
    shares = [
        (f',worker="{each.place}",node="{_escaped(each.node)}"', each.busy)
        for each in workers
        if each.busy is not None
    ]
    if shares:
        yield "worker_busy_share", "Share of a worker's life in which it had a job.", shares


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
