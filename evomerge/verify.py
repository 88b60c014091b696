"""Verify: recompute every invariant of a campaign folder from what it holds.

Nothing is taken from the driver's bookkeeping: counts, dominance and keys are worked out again by plainer
means, so that a fault in the code that wrote a folder shows as well as a damaged file. No model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.baselines import UNIFORM, baseline_recipes, freeze
from evomerge.campaign import Campaign, campaign_from_json, identity_digest
from evomerge.errors import EvomergeError, LedgerDamaged, Problem
from evomerge.front import compute_front
from evomerge.history import EXPORTS_FILE, ITEMS_FOLDER, LEDGER_FILE, Candidate, History
from evomerge.item_store import ItemStore
from evomerge.ledger import read_events
from evomerge.objective import Failed, Outcome, complete
from evomerge.optimizers import make_optimizer
from evomerge.prepared import prepared_sources, prepared_space
from evomerge.recipe import Recipe
from evomerge.scores import mean_metric
from evomerge.search_space import SearchSpace

Events = Sequence[Mapping[str, Any]]

CLOSE = 1e-9
"""Relative tolerance for means: lm-eval sums in another order than NumPy."""

CODE = "E510"


@dataclass
class Verification:
    """Faults found, and how many of each thing were looked at."""

    problems: list[Problem] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    file: str = ""

    def fault(self, wrong: str, found: str = "", where: str = "") -> None:
        """Note that an invariant does not hold."""
        todo = "report this, unless a file was edited or evomerge changed since"
        self.problems.append(Problem(CODE, wrong, found, todo, self.file, field=where))

    def count(self, what: str, number: int) -> None:
        """Note how many things were looked at."""
        self.checked[what] = self.checked.get(what, 0) + number


def verify(directory: Path) -> list[Problem]:
    """Every invariant of a campaign folder that does not hold; see `examine`."""
    return examine(directory).problems


def examine(directory: Path) -> Verification:
    """Check a campaign folder; works while a run goes on.

    Problems: E502 and E503 a damaged ledger or item store, E505 an optimizer that does not ask again what
    the ledger says, E510 anything else that contradicts itself.

    Raises:
        FileNotFoundError: if there is no ledger.
    """
    result = Verification(file=str(directory / LEDGER_FILE))
    try:
        events = read_events(directory / LEDGER_FILE)
    except LedgerDamaged as error:
        result.problems += error.problems
        return result
    result.count("ledger events with sound checksums", len(events))
    if not _check_order(events, result):
        return result
    history = History.fold(events)
    _check_results(events, history, result)
    _check_items(events, ItemStore(directory / ITEMS_FOLDER), result)
    if history.prepared is not None:
        _check_recipes(events, history, result)
    _check_baselines(history, result)
    _check_budget(events, history, result)
    _check_front(directory, history, result)
    _check_exports(directory, history, result)
    return result


def _check_order(events: Events, result: Verification) -> bool:
    """Events stand in an order a driver writes; False if nothing else can be checked."""
    if not events or events[0]["event"] != "campaign":
        result.fault("a ledger begins with its `campaign` event")
        return False
    if events[0]["identity"] != identity_digest(events[0]["config"]):
        result.fault("the campaign's identity is not that of its configuration", where="identity")
    known = {"base", UNIFORM, *events[0]["config"]["experts"]}
    known |= {f"single-{c:g}" for c in events[0]["config"]["baselines"]["single"]}
    seen: set[str] = set()
    asked = told = 0
    for event in events[1:]:
        kind, where = event["event"], f"event {event['n']}"
        if kind in ("campaign", "prepared", "baselines") and kind in seen:
            result.fault(f"`{kind}` stands twice", where=where)
        if kind not in ("prepared", "stopped") and "prepared" not in seen:
            result.fault(f"`{kind}` stands before `prepared`", where=where)
        if kind == "asked":
            if event["generation"] != asked or "baselines" not in seen or asked != told:
                result.fault("a generation is asked out of turn", f"{event['generation']}", where)
            asked += 1
            names = [entry["id"] for entry in event["candidates"]]
            for name in names:
                if name in known or names.count(name) > 1:
                    result.fault(f"`{name}` is asked twice", where=where)
            known |= set(names)
        elif kind == "told":
            if event["generation"] != told or told >= asked:
                result.fault("a generation is told out of turn", f"{event['generation']}", where)
            told += 1
        elif kind in ("evaluated", "failed", "lost") and event["id"] not in known:
            result.fault(f"a result for `{event['id']}`, which nobody asked for", where=where)
        elif kind == "selection":
            for name in event["ids"]:
                if name not in known:
                    result.fault(f"`{name}` is re-scored, but nobody asked for it", where=where)
        seen.add(kind)
    result.count("generations in turn", asked)
    return True


def _check_results(events: Events, history: History, result: Verification) -> None:
    """One accepted result per evaluation key; a repeat names its owner and has its scores."""
    owners: dict[str, Mapping[str, Any]] = {}
    keys: dict[tuple[str, str], str] = {}
    scored: set[tuple[str, str]] = set()
    for event in (event for event in events if event["event"] == "evaluated"):
        where, key = f"event {event['n']}", event["key"]
        if (event["id"], event["split"]) in scored:
            result.fault(f"`{event['id']}` is scored twice on {event['split']} items", where=where)
        scored.add((event["id"], event["split"]))
        if history.candidates[event["id"]].recipe != event["recipe"]:
            result.fault(f"`{event['id']}` is scored as another recipe than was asked", where=where)
        if keys.setdefault((event["recipe"], event["split"]), key) != key:
            result.fault("one recipe has two evaluation keys on one split", event["id"], where)
        owner = owners.get(key)
        if "same_as" not in event:
            if owner is not None:
                result.fault(
                    "one evaluation key has two results", f"{owner['id']}, {event['id']}", where
                )
            owners[key] = event
        elif owner is None or owner["id"] != event["same_as"] or owner["metrics"] != event["metrics"]:
            result.fault(
                f"`{event['id']}` repeats scores that `{event['same_as']}` has not", where=where
            )
    if len({*keys.values()}) != len(keys):
        result.fault("two recipes or splits share an evaluation key")
    result.count("evaluations, one result for each key", len(owners))
    for candidate in history.candidates.values():
        metrics = [m for e in candidate.evaluations.values() for m in e.metrics.values()]
        if any(not math.isfinite(m.value) or not m.stderr >= 0 or m.items < 1 for m in metrics):
            result.fault("a score is not finite, or was measured on nothing", where=candidate.id)


def _check_items(events: Events, store: ItemStore, result: Verification) -> None:
    """Per-item results are there, unchanged, and their means are the recorded metrics."""
    means = 0
    records: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for event in (event for event in events if event["event"] == "evaluated"):
        where = f"event {event['n']}, {event['id']}"
        for reference in event["items"].values():
            place = (reference["segment"], reference["offset"])
            if place not in records:
                try:
                    records[place] = store.read(reference)
                except LedgerDamaged as error:
                    result.problems += error.problems
                    records[place] = {}
            for metric, values in records[place].items():
                means += 1
                recorded, found = event["metrics"].get(metric), mean_metric(values)
                if recorded is None:
                    result.fault(f"items of {metric}, which has no score", where=where)
                elif recorded["items"] != found.items or not (
                    math.isclose(recorded["value"], found.value, rel_tol=CLOSE, abs_tol=CLOSE)
                    and math.isclose(recorded["stderr"], found.stderr, rel_tol=CLOSE, abs_tol=CLOSE)
                ):
                    text = f"recorded {recorded['value']}, its items give {found.value}"
                    result.fault(f"{metric} is not the mean of its items", text, where)
    result.count("item records with sound digests", sum(1 for record in records.values() if record))
    result.count("metrics equal to the mean of their items", means)


def _check_recipes(events: Events, history: History, result: Verification) -> None:
    """Genomes decode to the recorded recipes, and the optimizer asks for them again."""
    assert history.prepared is not None
    try:
        campaign = campaign_from_json(history.campaign["config"])
        # Where the checkpoints lie is no part of a digest.
        paths = dict.fromkeys(history.prepared["checkpoints"], "")
        space = prepared_space(campaign, history.prepared, paths)
        sources = prepared_sources(history.prepared, paths)
    except (EvomergeError, ValueError, KeyError) as error:
        result.fault("the recorded campaign cannot be read again", str(error))
        return
    recipes = baseline_recipes(
        sources,
        campaign.experts,
        campaign.config.baselines.single,
        space.layout.layers,
        history.prepared["storage"],
    )
    for candidate in history.candidates.values():
        try:
            known = (
                recipes[candidate.id] if candidate.genome is None else space.decode(candidate.genome)
            )
        except (KeyError, ValueError) as error:
            result.fault("a genome cannot be decoded", str(error), candidate.id)
            continue
        result.count("recipes decoded again", 1)
        if known.digest != candidate.recipe:
            result.fault("the recipe is not that of the genome", known.digest, candidate.id)
    if history.baselines is not None:
        _replay(campaign, space, recipes, history, result)


def _replay(
    campaign: Campaign,
    space: SearchSpace,
    recipes: Mapping[str, Recipe],
    history: History,
    result: Verification,
) -> None:
    section = campaign.config.optimizer
    optimizer = make_optimizer(
        section.kind,
        space.genes,
        campaign.objectives,
        population=section.population,
        seed=campaign.config.seed,
        initial=_seeds(campaign, space, recipes, history),
        options=section.options,
    )

    def differs(wrong: str) -> None:
        versions = ", ".join(f"{k} {v}" for k, v in sorted(history.campaign["versions"].items()))
        todo = f"it was written with {versions}"
        result.problems.append(
            Problem("E505", "the ledger cannot be replayed", wrong, todo, result.file)
        )

    for generation, ids in enumerate(history.generations):
        if optimizer.ask() != [history.candidates[name].genome for name in ids]:
            differs(f"generation {generation} is asked otherwise")
            return
        result.count("generations asked again", 1)
        if generation >= len(history.told):
            return
        try:
            optimizer.tell(_outcomes(campaign, [history.candidates[name] for name in ids]))
        except (KeyError, ValueError) as error:
            result.fault(f"generation {generation} is told, but lacks results", str(error))
            return
        if optimizer.state_digest() != history.told[generation]:
            differs(f"after generation {generation} the optimizer's state is another")
            return


def _seeds(
    campaign: Campaign, space: SearchSpace, recipes: Mapping[str, Recipe], history: History
) -> list[tuple[float, ...]]:
    """Genomes a search begins with: the shown baselines, as far as the space can express them."""
    seeds = []
    for name in history.reference_ids():
        genome = space.encode(recipes[name])
        if genome is None and name == UNIFORM:
            share = 1.0 / len(campaign.experts)
            genome = space.uniform(dict.fromkeys(campaign.experts, share))
        if genome is not None:
            seeds.append(genome)
    return list(dict.fromkeys(seeds))


def _outcomes(campaign: Campaign, candidates: Iterable[Candidate]) -> list[Outcome]:
    return [
        Failed(candidate.failure)
        if candidate.failure is not None
        else complete(campaign.objectives, candidate.evaluations["search"].metrics)
        for candidate in candidates
    ]


def _check_baselines(history: History, result: Verification) -> None:
    """Ideal, nadir and best single coefficient follow from the baselines' scores."""
    if history.baselines is None:
        return
    campaign = campaign_from_json(history.campaign["config"])
    metrics = {
        candidate.id: candidate.evaluations["search"].metrics
        for candidate in history.candidates.values()
        if candidate.is_baseline and "search" in candidate.evaluations
    }
    missing = [name for name in ("base", *campaign.experts) if name not in metrics]
    if missing:
        result.fault("the baselines are frozen, but one has no scores", ", ".join(missing))
        return
    expected = freeze(campaign.objectives, metrics, campaign.experts)
    for name, value in expected.items():
        if history.baselines[name] != value:
            result.fault(f"`{name}` does not follow from the baselines' scores", f"found {value}")
    result.count("baselines behind ideal and nadir", len(metrics))


def _check_budget(events: Events, history: History, result: Verification) -> None:
    """Count accepted search results again, event by event."""
    searched = {
        entry["id"] for event in events if event["event"] == "asked" for entry in event["candidates"]
    }
    settled = {
        event["id"]
        for event in events
        if event["event"] in ("evaluated", "failed")
        and event["split"] == "search"
        and "same_as" not in event
    }
    if len(searched & settled) != history.budget_used:
        found = f"{len(searched & settled)} by events, {history.budget_used} by candidates"
        result.fault("the budget used comes out differently", found)
    result.count("results counted against the budget", len(searched & settled))


def _check_front(directory: Path, history: History, result: Verification) -> None:
    """The front, by comparing every pair."""
    if history.baselines is None:
        return
    try:
        front = compute_front(history, ItemStore(directory / ITEMS_FOLDER))
    except LedgerDamaged:
        return  # noted with the items
    rows: dict[str, tuple[float, ...]] = {}
    keys: set[str] = set()
    for candidate in history.candidates.values():
        evaluation = candidate.evaluations.get(front.split)
        if candidate.is_baseline or "search" not in candidate.evaluations or evaluation is None:
            continue
        if evaluation.key not in keys:
            keys.add(evaluation.key)
            rows[candidate.id] = tuple(
                o.sign * evaluation.metrics[o.metric].value for o in front.objectives
            )
    expected = {
        name
        for name, row in rows.items()
        if not any(
            all(a <= b for a, b in zip(other, row, strict=True)) and other != row
            for other in rows.values()
        )
    }
    found = {member.id for member in front.members}
    if found != expected:
        different = ", ".join(sorted(found ^ expected))
        result.fault("the front is not what comparing every pair gives", different)
    result.count(f"models compared pair by pair on {front.split} items", len(rows))


def _check_exports(directory: Path, history: History, result: Verification) -> None:
    """Exported folders that still exist have the files and bytes their log line says."""
    log = directory / EXPORTS_FILE
    if not log.exists():
        return
    for number, line in enumerate(log.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            result.fault("a line of the export log cannot be read", where=f"{log.name}:{number}")
            continue
        _check_export(entry, f"{log.name}:{number}", history, result)


def _check_export(entry: Mapping[str, Any], where: str, history: History, result: Verification) -> None:
    candidate = history.candidates.get(str(entry.get("id")))
    if candidate is not None and entry.get("recipe") not in (None, candidate.recipe):
        result.fault("an export's recipe is not that of its candidate", candidate.id, where)
    folder = Path(str(entry.get("out", "")))
    files = entry.get("files")
    if not isinstance(files, dict) or not folder.is_dir():
        return
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            result.fault("a file of an export is gone", str(path), where)
        elif _sha256(path) != digest:
            result.fault("a file of an export was changed", str(path), where)
        result.count("exported files with sound digests", 1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
