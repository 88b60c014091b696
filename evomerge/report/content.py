"""What a report says: everything that is known of a campaign folder, as words and as data for the scripts."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from evomerge.campaign.recorded import recorded_space
from evomerge.errors import EvomergeError, Problem, UsageError
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.front.front import Front
from evomerge.front.terminal import smooth_lines
from evomerge.front.words import duration
from evomerge.ledger.failed_slopes import failed_slopes, measured_slopes
from evomerge.ledger.history import ITEMS_FOLDER, History
from evomerge.ledger.item_store import ItemStore
from evomerge.objectives.measures import is_fraction
from evomerge.report.coefficients import baseline_tables, genes_json, modules_of, recipes_yaml
from evomerge.report.experts import influence_json, task_vectors_json
from evomerge.report.models import (
    asked_at,
    inherited,
    items_against_experts,
    models_json,
    nearest_earlier,
    origins_json,
)
from evomerge.report.progress import curve, faults, forecast_words, seconds_by_phase, stage_words
from evomerge.report.sentences import (
    conflict_words,
    fewer_sentences,
    hypervolume_words,
    kinship_words,
    lost_workers,
    not_final,
    sentences,
    slopes_failed_words,
    uses_of_test_items,
)
from evomerge.report.signs import sign_conflicts
from evomerge.report.tables import card_row, heads, mean_word, model_rows, optimism_rows, volume_rows
from evomerge.run.standing import phase_of
from evomerge.search_space import SearchSpace

MOST_COLOURS = 400
"""Most genes that the menu of colours offers."""

SMOOTH_WIDTH = 1000
"""Columns of the line about smooth values: the page breaks it."""

SECTIONS = (
    ("decide", "Decision"),
    ("front", "Front"),
    ("member", "Member"),
    ("search", "Search"),
    ("experts", "Experts"),
    ("belief", "Belief and provenance"),
)


@dataclass(frozen=True)
class Content:
    """`context` is shown by the template, `data` drawn by the scripts."""

    context: dict[str, Any]
    data: dict[str, Any]


def read_content(directory: Path, rivals: Sequence[Path] = ()) -> Content:
    """Read a campaign folder, also while a run goes on in it.

    Args:
        directory: of the campaign.
        rivals: other campaign folders with the same objectives, whose search is drawn beside this one's.

    Raises:
        UsageError: E509, no campaign there; E500, a rival with other objectives.
        LedgerDamaged: E502.
    """
    opened = open_campaign_folder(directory)
    history = opened.history
    try:
        front = opened.front()
    except UsageError as error:
        return _begun(opened, error)
    store = ItemStore(directory / ITEMS_FOLDER)
    space = recorded_space(history)
    believed, decision = opened.front_uncertainty(front), opened.decision(front)
    members = [member.id for member in front.members]
    first = [card.member for card in decision.cards] + [each.id for each in decision.spanning]
    ordered = list(dict.fromkeys([*first, *members, *history.reference_ids()]))
    spans = np.array([gene.high - gene.low for gene in space.genes])
    genes = genes_json(space, history, members)
    vectors, influence = task_vectors_json(history), influence_json(history, space, front.objectives)
    signs = _signs(history, space)
    pick = decision.cards[0].member if decision.cards else ""
    data: dict[str, Any] = {
        "directory": shlex.quote(str(directory)),
        "out": f"{front.campaign}-merged",
        "split": front.split,
        "objectives": _objectives(front),
        "models": models_json(front, history, opened.events),
        "shown": history.reference_ids(),
        "genes": genes,
        "places": list(space.layout.places),
        "modules": modules_of(space.layout.places),
        "baselineTables": baseline_tables(history, history.reference_ids()),
        "items": items_against_experts(front, history, store),
        "near": nearest_earlier(front, history, spans),
        "inherited": inherited(front, history),
        "origins": origins_json(history),
        "recipes": recipes_yaml(history, space, [history.candidates[name] for name in ordered]),
        "askedAt": asked_at(opened.events),
        "search": curve(history, opened.events, front.objectives, front.scaling),
        "rivals": [_rival(path, front) for path in rivals],
        "time": seconds_by_phase(opened.events),
        "taskVectors": vectors,
        "influence": influence,
        "signs": signs,
    }
    context = _frame(opened) | {
        "waiting": "",
        "final": front.split != "search",
        "not_final": not_final(history),
        "see": sentences(front, decision, believed, history),
        "split": front.split,
        "cards": [card_row(front, card, data["directory"], data["out"]) for card in decision.cards],
        "no_cards": "No model is on the front yet.",
        "objectives": data["objectives"],
        "mean_word": mean_word(front),
        "has_probability": any(member.probability is not None for member in front.members),
        "splits": [s for s in ("search", "selection") if s in data["models"]["scores"]],
        "genes": genes["names"][:MOST_COLOURS],
        "pick": pick,
        "heads": heads(front),
        "rows": model_rows(front, decision),
        "hypervolume_words": hypervolume_words(),
        "stage_words": stage_words(history, opened.events),
        "forecast_words": forecast_words(history),
        "time_words": f"Seconds of all workers together; the campaign ran for {duration(history.elapsed)}.",
        "faults": faults(history),
        "lost": lost_workers(history),
        "slopes_failed": slopes_failed_words(history),
        "has_vectors": vectors is not None,
        "has_influence": influence is not None,
        "kinship": kinship_words(vectors),
        "conflicts": conflict_words(signs),
        "has_signs": signs is not None,
        "optimism": optimism_rows(believed),
        "volumes": volume_rows(front, believed),
        "volume_words": hypervolume_words(),
        "test_words": uses_of_test_items(directory),
        "steering": " ".join(smooth_lines(front, SMOOTH_WIDTH)) if front.steering else "",
    }
    return Content(context, data)


def _begun(opened: OpenedFolder, error: UsageError) -> Content:
    """Of a campaign without a front: who it is, and what is known of its experts."""
    vectors = task_vectors_json(opened.history)
    why = error.problems[0].words if error.problems else str(error)
    context = _frame(opened) | {
        "waiting": f"This campaign is at its beginning ({phase_of(opened.history)}): {why}.",
        "see": fewer_sentences(),
        "has_vectors": vectors is not None,
        "has_influence": False,
        "kinship": kinship_words(vectors),
        "optimism": None,
        "volumes": [],
        "volume_words": "",
        "test_words": "",
        "steering": "",
        "sections": [SECTIONS[0], *([SECTIONS[4]] if vectors else []), SECTIONS[5]],
    }
    data = {"directory": shlex.quote(str(opened.path)), "taskVectors": vectors, "influence": None}
    return Content(context, data)


def _signs(history: History, space: SearchSpace) -> dict[str, Any] | None:
    """Conflicts of signs between the experts, if their files can be read here."""
    whole = {"base", *history.config["experts"]}
    genomes = (c.genome for c in history.searched() if c.genome is not None)
    recipes = (space.decode(genome) for genome in genomes)
    recipe = next((each for each in recipes if set(each.checkpoints) >= whole), None)
    try:
        return None if recipe is None else sign_conflicts(recipe, space.layout.places)
    except (EvomergeError, OSError):
        return None


def _frame(opened: OpenedFolder) -> dict[str, Any]:
    history = opened.history
    prepared, config = history.prepared, history.config
    phase = phase_of(history)
    failed = sum(history.failed_kinds.values())
    slopes, slopes_failed = measured_slopes(history), len(failed_slopes(history))
    facts = [
        f"{len(history.stated.objectives)} objectives",
        f"{history.budget_used} evaluations",
        *([f"{history.free} known from earlier campaigns"] if history.free else []),
        *([f"{history.raced} raced"] if history.raced else []),
        *([f"{failed} failed"] if failed else []),
        *([f"{slopes} slopes"] if slopes else []),
        *([f"{slopes_failed} slopes failed"] if slopes_failed else []),
        duration(history.elapsed) + " of running time",
        "finished" if phase == "done" else f"not finished: {phase}",
    ]
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 110
    writer.dump(_plain(config), stream)
    return {
        "name": history.stated.name,
        "facts": facts,
        "evomerge": str(history.versions.get("evomerge", "")),
        "version": "",
        "sections": list(SECTIONS),
        "evaluators": [
            [
                name,
                *(each.items.get(split, 0) for split in ("search", "selection", "test")),
                each.digest,
            ]
            for name, each in (prepared.evaluators.items() if prepared else ())
        ],
        "checkpoints": [
            [name, _place(history, name), digest]
            for name, digest in (prepared.checkpoints.items() if prepared else ())
        ],
        "versions": ", ".join(f"{name} {version}" for name, version in history.versions.items()),
        "identity": history.campaign.identity if history.campaign else "",
        "events": len(opened.events),
        "seed": history.stated.seed,
        "warnings": [problem.words for problem in prepared.warnings] if prepared else [],
        "campaign": stream.getvalue(),
        "conflicts": conflict_words(None),
        "has_signs": False,
        "no_influence": "Too few candidates are scored to say which layers matter to which objective.",
    }


def _plain(value: Any) -> Any:
    """Mappings and sequences of the ledger as those a YAML writer knows."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _place(history: History, name: str) -> str:
    stated = history.config["base"] if name == "base" else history.config["experts"].get(name, {})
    if stated.get("hub"):
        return f"{stated['hub']}@{str(stated.get('revision', ''))[:12]}"
    return Path(str(stated.get("path", ""))).name


def _objectives(front: Front) -> list[dict[str, Any]]:
    return [
        {"metric": o.metric, "sign": o.sign, "percent": is_fraction(o.metric)} for o in front.objectives
    ]


def _rival(path: Path, front: Front) -> dict[str, Any]:
    opened = open_campaign_folder(path)
    theirs = opened.history.stated.objectives
    if theirs != front.objectives:
        raise UsageError(
            Problem(
                "E500",
                "only a search for the same objectives can be drawn beside",
                str([(o.metric, o.direction) for o in theirs]),
                "",
                str(path),
            )
        )
    found = curve(opened.history, opened.events, front.objectives, front.scaling)
    kind = opened.history.config.get("optimizer", {}).get("kind", "")
    return {**found, "name": f"{path.name} ({kind})" if kind else path.name}
