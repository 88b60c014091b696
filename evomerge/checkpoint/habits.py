"""How a model is used beside its weights: special tokens, generation settings, chat templates. Torch-free.

No merge can merge them; what differs is told, and what can be joined without a choice is joined.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.vocabulary import token_ids

GENERATION_FILE = "generation_config.json"
STOP = "eos_token_id"
TEMPLATE = "chat template"

_IDS = ("bos_token_id", STOP, "pad_token_id")
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_NO_SETTING = ("transformers_version", "_from_model_config")


def habits(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ids and tokens that configs state, which some leave out, and generation settings with the template.

    Args:
        folder: of a model or adapter.
        config: the decoder's part of its `config.json`; empty for an adapter.
    """
    settings = {k: v for k, v in _read(folder / GENERATION_FILE).items() if k not in _NO_SETTING}
    ids = {key: settings.pop(key, config.get(key)) for key in _IDS}
    stated = _read(folder / "tokenizer_config.json")
    tokens = {key: _content(stated.get(key)) for key in _TOKENS}
    return {**ids, **tokens}, {**settings, TEMPLATE: chat_template(folder)}


def differing_habits(
    ours: tuple[Mapping[str, Any], Mapping[str, Any]],
    theirs: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> dict[str, tuple[Any, Any]]:
    """What differs between two models' `habits`, with both values.

    An id or a token that one of them does not state is no difference; a setting is, and so is a template.
    """
    found = {}
    for key, value in ours[0].items():
        other = theirs[0].get(key)
        if None not in (value, other) and _as_list(value) != _as_list(other):
            found[key] = (value, other)
    for key in sorted({*ours[1], *theirs[1]}):
        if ours[1].get(key) != theirs[1].get(key):
            found[key] = (ours[1].get(key), theirs[1].get(key))
    return found


@dataclass(frozen=True)
class Difference:
    """One setting that not all models of a merge have alike.

    Attributes:
        what: `eos_token_id`, `pad_token`, `chat template`, `temperature`, ...
        stated: name of each model to what it has, None where it states nothing.
        taken: what the merge has.
    """

    what: str
    stated: Mapping[str, Any]
    taken: Any

    def shown(self, value: Any) -> str:
        """One of its values in a few characters; of a chat template its length and its SHA-256's start."""
        if self.what != TEMPLATE or value is None:
            return "none" if value is None else shortened(value)
        digest = hashlib.sha256(str(value).encode()).hexdigest()
        return f"{len(value)} characters, {digest[:8]}"

    def __str__(self) -> str:
        values = ", ".join(f"{name} {self.shown(value)}" for name, value in self.stated.items())
        alike = [n for n, value in self.stated.items() if _as_list(value) == _as_list(self.taken)]
        source = f"that of {alike[0]}" if alike else self.shown(self.taken)
        return f"{self.what}: {values}; taken: {source}"


def differences(
    models: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    taken: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> tuple[Difference, ...]:
    """Everything in which the `habits` of models differ, and what a merge of them has.

    What counts as a difference is as in `differing_habits`.
    """
    pairs = itertools.combinations(models.values(), 2)
    keys = {key for ours, theirs in pairs for key in differing_habits(ours, theirs)}
    known = dict.fromkeys(key for parts in (*models.values(), taken) for part in parts for key in part)
    flat = {name: {**parts[0], **parts[1]} for name, parts in models.items()}
    own = {**taken[0], **taken[1]}
    return tuple(
        Difference(key, {name: parts.get(key) for name, parts in flat.items()}, own.get(key))
        for key in known
        if key in keys
    )


def shortened(value: Any) -> str:
    """A value as JSON, long ones cut short."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, in whichever of its three places it stands."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (found := _read(folder / name).get("chat_template")) is not None:
            return found if isinstance(found, str) else json.dumps(found)
    return None


def writes_chats(folder: Path) -> bool:
    """Whether a tokenizer's files can hold a chat template, or its class writes chats without one."""
    others = ("additional_chat_templates", "tekken.json")
    return chat_template(folder) is not None or any((folder / name).exists() for name in others)


def agreed_template(folders: Iterable[Path]) -> str | None:
    """The one chat template of those folders that have one; None where they have none or several."""
    found = {template for folder in folders if (template := chat_template(folder)) is not None}
    return found.pop() if len(found) == 1 else None


def stop_ids(folder: Path, config: Mapping[str, Any]) -> list[int]:
    """The ids at which a model stops: those of its generation settings, else of its config."""
    stated = _read(folder / GENERATION_FILE).get(STOP)
    return _as_list(config.get(STOP) if stated is None else stated)


def union_of_stops(
    models: Iterable[tuple[Path, Mapping[str, Any]]], ids: Mapping[str, int]
) -> list[int]:
    """Where a union of vocabularies stops: at every token at which one of the models does.

    Args:
        models: folder and decoder's config of each.
        ids: token to id of the union.
    """
    found = []
    for folder, config in models:
        tokens = {number: token for token, number in token_ids(folder).items()}
        found += [ids[tokens[n]] for n in stop_ids(folder, config) if tokens.get(n) in ids]
    return sorted(set(found))


def write_stops(folder: Path, ids: list[int]) -> None:
    """Make `ids` those at which the model in a folder stops."""
    path = folder / GENERATION_FILE
    text = json.dumps({**_read(path), STOP: ids}, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    # Ids are numbers; a file may say others too, which do not compare with them.
    return (
        sorted(value, key=lambda each: (str(type(each)), each)) if isinstance(value, list) else [value]
    )
