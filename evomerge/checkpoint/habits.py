"""How a model is used beside its weights: special tokens, generation settings, chat templates. Torch-free.

No merge can merge them; what differs is told, and what can be joined without a choice is joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.vocabulary import token_ids

GENERATION_FILE = "generation_config.json"
STOP = "eos_token_id"

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
    return {**ids, **tokens}, {**settings, "chat template": chat_template(folder)}


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


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, in whichever of its three places it stands."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (found := _read(folder / name).get("chat_template")) is not None:
            return found if isinstance(found, str) else json.dumps(found)
    return None


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
    return sorted(value) if isinstance(value, list) else [value]
