"""The files of an export beside its weights: config, tokenizer, recipe, manifest. Torch-free.

Tokenizer and chat template are copied byte by byte, since loading and saving them again changes them; only
names that transformers 4 does not know are replaced. Most servers and converters still run it.
No file that is written here holds an absolute path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint.rope import older_spelling
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe, Source

CONFIG_FILE = "config.json"
RECIPE_FILE = "recipe.json"
MERGEKIT_FILE = "mergekit_config.yml"
MANIFEST_FILE = "evomerge.json"
SCHEMA = 1

COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
)
COPIED_FOLDERS = ("additional_chat_templates",)

_OLDER_NAMES = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""Model type to fields that transformers 5 renamed and transformers 4 does not find."""

_NEWER_TOKENIZERS = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")
"""Classes that transformers 4 does not have; with a `tokenizer.json` they do what the class below does."""
_BOTH_KNOW = "PreTrainedTokenizerFast"

_BLOCK = 1 << 22


def copy_side_files(source: Path, out: Path) -> tuple[str, ...]:
    """Copy generation config, tokenizer, processor and chat template files; returns their names."""
    copied = []
    for name in COPIED_FILES:
        if (source / name).is_file():
            _copy(source / name, out / name)
            copied.append(name)
    for name in COPIED_FOLDERS:
        for path in sorted((source / name).glob("*.jinja")):
            (out / name).mkdir(exist_ok=True)
            _copy(path, out / name / path.name)
            copied.append(f"{name}/{path.name}")
    if "tokenizer.json" in copied and "tokenizer_config.json" in copied:
        _name_for_both(out / "tokenizer_config.json")
    return tuple(copied)


def _name_for_both(path: Path) -> None:
    """Give a tokenizer the class and the list of special tokens that both lines of transformers know."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return  # loading it says what is wrong with it
    newer = config.get("tokenizer_class") in _NEWER_TOKENIZERS
    special = config.get("extra_special_tokens")
    if newer:
        config["tokenizer_class"] = _BOTH_KNOW
    if isinstance(special, list):
        del config["extra_special_tokens"]
        config["additional_special_tokens"] = special
    if newer or isinstance(special, list):
        write_json(path, config)


def _copy(source: Path, target: Path) -> None:
    # Content only: hub caches hold links, and read-only files would stay read-only.
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)


def output_config(
    config: Mapping[str, Any], dtype: str, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The `config.json` of a merge, and warnings.

    Args:
        config: of the checkpoint whose tokenizer is exported.
        dtype: storage dtype of the merge.
        changes: what the recipe replaces (number of layers, tying, ...).
    """
    result = {**config, **changes}
    warnings = []
    # It names where the source was loaded from, often an absolute path.
    result.pop("_name_or_path", None)
    if result.pop("auto_map", None):
        warnings.append("config.json named remote code (auto_map); it is left out of the export")
    _spell_for_both(result, dtype)
    text = result.get("text_config")
    if isinstance(text, Mapping):
        result["text_config"] = {key: value for key, value in text.items() if key != "_name_or_path"}
        _spell_for_both(result["text_config"], dtype)
    return result, tuple(warnings)


def _spell_for_both(part: dict[str, Any], dtype: str) -> None:
    """Say in the fields of transformers 4 too what transformers 5 says in fields of its own.

    A reader that does not know `rope_parameters` takes defaults without a word.
    """
    part |= {"dtype": dtype, "torch_dtype": dtype, **older_spelling(part)}
    for newer, older in _OLDER_NAMES.get(str(part.get("model_type")), {}).items():
        if newer in part:
            part.setdefault(older, part[newer])


def published_recipe(recipe: Recipe, hubs: Mapping[str, str], out: Path) -> Recipe:
    """The recipe with paths that may be published.

    A hub model is `ORG/NAME@COMMIT`. A folder is given relative to `out` where the two have a parent in
    common, so that the recipe works as it lies; else by its name alone, because the way up to the root
    and down again would be as telling as an absolute path.
    """
    sources: dict[str, Source] = {
        name: replace(source, path=hubs.get(name) or _relative(Path(source.path), out))
        if isinstance(source, CheckpointSource)
        else _published_text(source, out)
        for name, source in recipe.sources.items()
    }
    return replace(recipe, sources=sources)


def _published_text(source: MergedSource, out: Path) -> MergedSource:
    """A merge with the path of its calibration text such that it may be published."""
    text = source.calibration
    if text is None:
        return source
    return replace(source, calibration=replace(text, path=_relative(Path(text.path), out)))


def _relative(path: Path, out: Path) -> str:
    path, out = Path(os.path.realpath(path)), Path(os.path.realpath(out))
    common = Path(os.path.commonpath((path, out.parent)))
    return os.path.relpath(path, out) if common != Path(common.anchor) else path.name


def write_json(path: Path, data: Any) -> None:
    """Indented JSON with a newline at its end."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 (hex) and size in bytes of every file below a folder, by its path in it."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        name = path.relative_to(folder).as_posix()
        found[name] = {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}
    return found


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, int]:
    """Write `evomerge.json`, the last file of an export; returns every file and its size."""
    files = file_digests(folder)
    write_json(folder / MANIFEST_FILE, {"schema": SCHEMA, **facts, "files": files})
    sizes = {name: entry["bytes"] for name, entry in files.items()}
    return {**sizes, MANIFEST_FILE: (folder / MANIFEST_FILE).stat().st_size}


def check_manifest(folder: Path) -> list[str]:
    """What differs between an export and its manifest; empty if every file is as it was published."""
    stated = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    found = file_digests(folder)
    found.pop(MANIFEST_FILE, None)
    differences = []
    for name in sorted(set(stated) | set(found)):
        if name not in found:
            differences.append(f"{name}: missing")
        elif name not in stated:
            differences.append(f"{name}: not listed")
        elif stated[name] != found[name]:
            differences.append(f"{name}: changed")
    return differences
