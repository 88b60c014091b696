"""Tokenizer files of merges whose vocabulary is no model's own, and chat templates that a recipe states."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.checkpoint.vocabulary import TOKENIZER_FILE, plain_ids
from evomerge.errors import CheckpointError, Problem
from evomerge.files.storage import sync_tree

_OLDER_FILES = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
    "tekken.json",
)
_CONFIG = "tokenizer_config.json"
_PLAIN_TOKEN = {
    "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False,
}  # fmt: skip
"""An added token as `add_tokens` of transformers makes it of a text."""


def write_union(folder: Path, others: Sequence[Path], ids: Mapping[str, int]) -> None:
    """Turn the base's copied tokenizer files into those of a union.

    Tokens that only others have keep what their first owner says of them: an added token is added, a
    word of the model's vocabulary joins the base's, with the merges that make it (after the base's own).
    Tokens that nobody has become added tokens.

    Args:
        folder: the staged folder with the base's files.
        others: model folders in the order in which tokens were numbered.
        ids: token to id of the union; those of the base as in its files.

    Raises:
        CheckpointError: E226, a vocabulary that cannot be added to (a list with gaps).
    """
    path = folder / TOKENIZER_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    data.setdefault("added_tokens", [])
    known = plain_ids(data) | {entry["content"]: entry["id"] for entry in data["added_tokens"]}
    new = {token: number for token, number in ids.items() if token not in known}
    words: dict[str, float] = {}
    merges: list[Any] = []
    for other in others:
        theirs = json.loads((other / TOKENIZER_FILE).read_text(encoding="utf-8"))
        added = {entry["content"]: entry for entry in theirs.get("added_tokens", ())}
        mine = [token for token in new if token in added and token not in words]
        present = {entry["content"] for entry in data["added_tokens"]}
        data["added_tokens"] += [
            {**added[token], "id": new[token]} for token in mine if token not in present
        ]
        found = plain_ids(theirs)
        present |= set(mine)
        fresh = {token for token in new if token in found and token not in present | set(words)}
        words |= dict.fromkeys(fresh, 0.0)
        if isinstance(theirs["model"]["vocab"], list):
            words |= {token: score for token, score in theirs["model"]["vocab"] if token in fresh}
        merges += [merge for merge in theirs["model"].get("merges", ()) if _joined(merge) in fresh]
    present = {entry["content"] for entry in data["added_tokens"]} | set(words)
    data["added_tokens"] += [
        {"id": number, "content": token, **_PLAIN_TOKEN}
        for token, number in new.items()
        if token not in present
    ]
    _extend(data, known | new, words, str(path))
    if "merges" in data["model"]:
        data["model"]["merges"] = _in_one_form([*data["model"]["merges"], *merges])
    data["added_tokens"].sort(key=lambda entry: entry["id"])
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name in _OLDER_FILES:
        (folder / name).unlink(missing_ok=True)
    _note_added(folder / _CONFIG, data["added_tokens"])


def union_tokenizer(folder: Path, base: Path, others: Sequence[Path], ids: Mapping[str, int]) -> Path:
    """A folder that holds the tokenizer of a union and is made where it is missing; see `write_union`."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        for name in (TOKENIZER_FILE, _CONFIG, "special_tokens_map.json", "config.json"):
            if (base / name).is_file():
                shutil.copyfile(base / name, staged / name)
        write_union(staged, others, ids)
        sync_tree(staged)
        # Another process may have been faster: its files are the same.
        with contextlib.suppress(OSError):
            staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _joined(merge: Any) -> str:
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _in_one_form(merges: list[Any]) -> list[Any]:
    """Pairs of tokens where some are: no reader takes them beside `left right`, as older files have."""
    if all(isinstance(merge, str) for merge in merges):
        return merges
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _extend(
    data: dict[str, Any], ids: Mapping[str, int], words: Mapping[str, float], file: str
) -> None:
    """Give every token a place in the model's vocabulary.

    Added tokens too: a reader numbers those that are not in it by counting, which gives other ids as
    soon as the vocabulary has grown.
    """
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, dict):
        data["model"]["vocab"] = {**vocabulary, **{t: n for t, n in ids.items() if t not in vocabulary}}
        return
    for token, number in sorted(ids.items(), key=lambda entry: entry[1])[len(vocabulary) :]:
        if number != len(vocabulary):
            wrong = "this vocabulary is a list with gaps and cannot be added to"
            raise CheckpointError(Problem("E226", wrong, f"no token {len(vocabulary)}", "", file))
        vocabulary.append([token, words.get(token, 0.0)])


def _note_added(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if "added_tokens_decoder" in config:
        stated = config["added_tokens_decoder"]
        for entry in entries:
            rest = {key: value for key, value in entry.items() if key != "id"}
            stated.setdefault(str(entry["id"]), rest)
        path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_chat_template(folder: Path, text: str) -> None:
    """Make `text` the only chat template of a folder."""
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    path = folder / _CONFIG
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("chat_template", None) is not None:
            path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
