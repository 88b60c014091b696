"""Campaign folders for tests of reports: a real one that has run, and others rewritten from its ledger."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE
from evomerge.ledger.records import RecordFile
from evomerge.report.write import report_html
from tests.tiny_runs import events_of, finished

Record = dict[str, Any]
OWN = ("n", "time", "elapsed", "format")
"""Fields that a ledger gives an event itself."""


def rewritten(folder: Path, change: Callable[[list[Record]], Iterable[Record]]) -> Path:
    """A campaign folder with the finished campaign's events, changed; clocks are those of the writing."""
    source = finished().directory
    folder.mkdir(parents=True)
    if (source / ITEMS_FOLDER).is_dir():
        shutil.copytree(source / ITEMS_FOLDER, folder / ITEMS_FOLDER)
    with RecordFile.open(folder / LEDGER_FILE, create=True) as ledger:
        for record in change(events_of(source)):
            ledger.append({name: value for name, value in record.items() if name not in OWN})
    return folder


def until(kind: str, count: int = 1) -> Callable[[list[Record]], list[Record]]:
    """The events up to the `count`th of a kind, that one included."""

    def cut(records: list[Record]) -> list[Record]:
        places = [k for k, record in enumerate(records) if record["event"] == kind]
        return records[: places[count - 1] + 1]

    return cut


def named(names: dict[str, str]) -> Callable[[list[Record]], list[Record]]:
    """The same events with other names, alone or before the dot of a metric; files keep theirs."""

    def other(value: Any) -> Any:
        if isinstance(value, str):
            head, dot, rest = value.partition(".")
            return names.get(value, names.get(head, head) + dot + rest)
        if isinstance(value, dict):
            return {other(k): each if k == "segment" else other(each) for k, each in value.items()}
        return [other(each) for each in value] if isinstance(value, list) else value

    def change(records: list[Record]) -> list[Record]:
        return [{k: value if k == "event" else other(value) for k, value in r.items()} for r in records]

    return change


def with_objectives(count: int) -> Callable[[list[Record]], list[Record]]:
    """The same campaign with `count` objectives; further ones are mixed of the first two."""

    def change(records: list[Record]) -> list[Record]:
        first, *rest = [o["metric"] for o in records[0]["config"]["objectives"]]
        wanted = [first, *rest, *(f"more{k}.acc" for k in range(count))][:count]
        for record in records:
            if record["event"] == "campaign":
                record["config"]["objectives"] = [
                    {"metric": m, "direction": "maximize"} for m in wanted
                ]
            elif record["event"] == "baselines":
                for name in ("ideal", "nadir"):
                    record[name] = [*record[name], *[record[name][0]] * count][:count]
            elif "metrics" in record:
                metrics = record["metrics"]
                for k, name in enumerate(wanted):
                    mixed = metrics[first]["value"] * (k % 3) + metrics[rest[0]]["value"] * (k % 2 + 1)
                    metrics.setdefault(name, {**metrics[first], "value": mixed / (k % 3 + k % 2 + 1)})
        return records

    return change


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><b>"
"""A name that would do harm where it were taken for markup."""


def with_name(name: str) -> Callable[[list[Record]], list[Record]]:
    """The first evaluator with another name, and a failure that says it."""
    evaluator = finished().front.objectives[0].metric.split(".")[0]

    def change(records: list[Record]) -> list[Record]:
        records = named({evaluator: name})(records)
        scored = next(r for r in records if r["event"] == "evaluated" and r["id"].startswith("c0"))
        kept = {k: scored[k] for k in ("id", "recipe", "key", "split")}
        failed = {"event": "failed", **kept, "failure": "<b>bad</b>", "message": f"{name} & more"}
        return [failed if record is scored else record for record in records]

    return change


@dataclass
class Element:
    """One element of a page: its name, attributes and the text directly in it."""

    name: str
    attributes: dict[str, str | None]
    text: str = ""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop().name != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].text += data
            if self.open[-1].name not in ("script", "style"):
                self.words.append(data)


@dataclass(frozen=True)
class Page:
    """A report taken apart."""

    html: str
    elements: list[Element]
    words: str

    def all(self, name: str) -> list[Element]:
        """The elements of a name."""
        return [element for element in self.elements if element.name == name]

    def by_id(self, name: str) -> Element:
        """The element with an id."""
        return next(e for e in self.elements if e.attributes.get("id") == name)

    def unpacked(self, name: str) -> str:
        """What lies in the page as gzip."""
        return gzip.decompress(base64.b64decode(self.by_id(name).text)).decode()

    @property
    def data(self) -> dict[str, Any]:
        """What the scripts draw."""
        found: dict[str, Any] = json.loads(self.unpacked("data"))
        return found

    @property
    def policy(self) -> dict[str, list[str]]:
        """Directives of the content security policy."""
        meta = next(m for m in self.all("meta") if "http-equiv" in m.attributes)
        assert meta.attributes["http-equiv"] == "Content-Security-Policy"
        parts = str(meta.attributes["content"]).split(";")
        return {name: values for name, *values in (part.split() for part in parts)}


def taken_apart(html: str) -> Page:
    """A page, parsed."""
    parser = _Parser()
    parser.feed(html)
    return Page(html, parser.elements, re.sub(r"\s+", " ", " ".join(parser.words)))


def page_of(folder: Path) -> Page:
    """The report of a campaign folder."""
    return taken_apart(report_html(folder))


@cache
def finished_page() -> Page:
    """The report of the finished campaign."""
    return page_of(finished().directory)
