"""Whether the installed transformers knows an architecture, by what its files say.

Torch-free: to import transformers takes seconds, and this is asked before anything is done.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata, util
from pathlib import Path

from evomerge.checkpoint.folder import CheckpointFolder, architectures
from evomerge.errors import Problem


def unknown_architecture(folder: CheckpointFolder) -> list[Problem]:
    """E203 for a `model_type` that the installed transformers lacks; E235 where it comes with code."""
    kind = folder.config.get("model_type")
    known = _auto_classes()
    if not isinstance(kind, str) or not known or f'"{kind}"' in known:
        return []
    where, field = str(folder.path / "config.json"), "model_type"
    named = ", ".join(architectures(folder.config)) or "no class named"
    if folder.config.get("auto_map"):
        wrong = f"{folder.name}: the architecture `{kind}` needs code of its own, which is never run"
        todo = "give a model that transformers knows"
        return [Problem("E235", wrong, named, todo, where, field=field)]
    version = metadata.version("transformers")
    wrong = f"{folder.name}: transformers {version} does not know the architecture `{kind}`"
    todo = "what it knows can be merged: install a release that has this one, or give another model"
    return [Problem("E203", wrong, named, todo, where, field=field)]


@cache
def _auto_classes() -> str:
    """The tables by which transformers finds a class; empty where they lie elsewhere."""
    found = util.find_spec("transformers")
    folders = (found.submodule_search_locations if found is not None else None) or ()
    files = [path for folder in folders for path in Path(folder).glob("models/auto/*.py")]
    texts = [path.read_text(encoding="utf-8") for path in files]
    return "\n".join(texts) if any('"llama"' in text for text in texts) else ""
