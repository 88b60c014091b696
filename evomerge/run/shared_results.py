"""Results of other campaigns: their ledgers, and folders of evaluations by key that many campaigns add to.

One file for each evaluation, written beside its name and then given it, never changed: safe for many writers
on any file system that can rename, and found without an index. What stands in it is what a worker measured,
per-item results too; a campaign that finds it records it as its own, at the same cost to its budget, so that
its front does not depend on what the folder holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.campaign.campaign import Campaign
from evomerge.errors import EvomergeError
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.ledger.history import ITEMS_FOLDER, LEDGER_FILE
from evomerge.ledger.item_store import ItemStore, decode, encode
from evomerge.objectives.scores import Metric
from evomerge.recipe.recipe import canonical_json
from evomerge.run.job import JobResult, Measured
from evomerge.versions import library_versions

logger = logging.getLogger(__name__)

FORMAT = 1


class KnownResults:
    """Whatever a campaign may take results from: its store, and the campaigns that it starts from."""

    def __init__(self, store: SharedResults | None, earlier: Sequence[EarlierCampaign]) -> None:
        self._store = store
        self._sources: list[EarlierCampaign | SharedResults] = [*earlier, *([store] if store else [])]

    def find(self, key: str, name: str) -> tuple[JobResult, str] | None:
        """What was measured for an evaluation key, as a result of the job `name`, and by which campaign."""
        for source in self._sources:
            found = source.find(key, name)
            if found is not None:
                return found
        return None

    def is_earlier(self, key: str) -> bool:
        """Whether a campaign that this one starts from has the scores of an evaluation key."""
        earlier = (each for each in self._sources if isinstance(each, EarlierCampaign))
        return any(each.has(key) for each in earlier)

    def add(self, key: str, result: JobResult) -> None:
        """Add what was measured to the store, if there is one."""
        if self._store is not None:
            self._store.add(key, result)


def known_results(campaign: Campaign) -> KnownResults | None:
    """What a campaign names in `results` and `optimizer.start_from`; None if that is nothing.

    An earlier campaign that cannot be read any more, or that measured with other versions of the libraries or
    another kind of device, knows nothing.
    """
    device = campaign.config.evaluation.device
    where = {"device": device.partition(":")[0], "versions": library_versions()}
    earlier = []
    for path in campaign.start_from:
        if not (path / LEDGER_FILE).is_file():
            continue
        try:
            folder = open_campaign_folder(path)
        except EvomergeError as error:
            logger.warning("start_from: %s", error)
            continue
        history = folder.history
        own = str(history.config["evaluation"]["device"]).partition(":")[0]
        if {"device": own, "versions": dict(history.versions)} == where:
            earlier.append(EarlierCampaign(folder))
        else:
            words = "start_from: %s was measured with other versions of the libraries, or on another kind of "
            logger.warning(words + "device: none of its scores is taken", path)
    store = None
    if campaign.results is not None:
        store = SharedResults(campaign.results, campaign.config.name, device)
    return KnownResults(store, earlier) if store or earlier else None


class EarlierCampaign:
    """The results in the ledger of a campaign."""

    def __init__(self, folder: OpenedFolder) -> None:
        self._history = folder.history
        self._items = ItemStore(folder.path / ITEMS_FOLDER)

    def has(self, key: str) -> bool:
        """Whether there are scores, of which per-item results may be damaged all the same."""
        return self._history.first_scored(key) is not None

    def find(self, key: str, name: str) -> tuple[JobResult, str] | None:
        """As `KnownResults.find`; nothing where per-item results are damaged."""
        known = self._history.first_scored(key)
        if known is None:
            return None
        evaluation = known[1]
        items: dict[str, Any] = {}
        try:
            for reference in evaluation.items.values():
                items |= self._items.read(reference)
        except EvomergeError as error:
            logger.warning("start_from: %s", error)
            return None
        measured = Measured(evaluation.metrics, evaluation.statistics)
        seconds = dict(evaluation.seconds)
        origin = self._history.stated.name
        return JobResult(name, "ok", measured=measured, items=items, seconds=seconds), origin


class SharedResults:
    """The store in `folder`, for a campaign called `origin` that scores on `device` (`cpu` or `cuda`).

    Its keys are those of the campaign together with kind of device and versions of the libraries: what other
    versions measured may differ in the last digits. A store that cannot be read or written costs nothing but
    the sharing; that is logged once.
    """

    def __init__(self, folder: Path, origin: str, device: str) -> None:
        self.folder = folder
        self.origin = origin
        self._where = {"device": device.partition(":")[0], "versions": library_versions()}
        self._damaged: set[Path] = set()
        self._troubled = False

    def find(self, key: str, name: str) -> tuple[JobResult, str] | None:
        """What was measured for an evaluation key, as a result of the job `name`, and by which campaign."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._trouble(f"cannot read {path}: {error}")
            return None
        try:
            head, _, body = content.partition(b"\n")
            data = json.loads(head)
            if data["sha256"] != _digest(data, body):
                raise ValueError("its SHA-256 does not fit")
            metrics = {n: Metric.from_json(m) for n, m in data["metrics"].items()}
            measured = Measured(metrics, data["statistics"])
            found = JobResult(
                name, "ok", measured=measured, items=decode(body), seconds=data["seconds"]
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._damaged.add(path)
            self._trouble(f"{path} is damaged, and will be measured again: {error}")
            return None
        return found, str(data["origin"])

    def add(self, key: str, result: JobResult) -> None:
        """Add what was measured; nothing where the key is there already and sound."""
        assert result.measured is not None
        path = self._path(key)
        if path not in self._damaged and path.exists():
            return
        body = encode(result.items)
        data: dict[str, Any] = {
            "format": FORMAT,
            "origin": self.origin,
            "metrics": {name: metric.to_json() for name, metric in result.measured.metrics.items()},
            "statistics": dict(result.measured.statistics),
            "seconds": {phase: round(seconds, 4) for phase, seconds in result.seconds.items()},
        }
        data["sha256"] = _digest(data, body)
        made = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with made.open("wb") as file:
                file.write(canonical_json(data).encode() + b"\n" + body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                made.unlink()
            self._trouble(f"cannot write {path}: {error}")

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(canonical_json({"key": key, **self._where}).encode()).hexdigest()
        return self.folder / name[:2] / name

    def _trouble(self, text: str) -> None:
        (logger.info if self._troubled else logger.warning)("results: %s", text)
        self._troubled = True


def _digest(data: dict[str, Any], body: bytes) -> str:
    """SHA-256 (hex) over the head without its own digest, and the per-item results."""
    head = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(head).encode() + b"\n" + body).hexdigest()
