"""The chat template a mergekit YAML asks for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.mergekit.document import Document
from evomerge.mergekit.models import Models
from evomerge.mergekit.templates import ODD_AT_MERGEKIT, TEMPLATES


def chat_template_text(document: Document, models: Models) -> str:
    """The text of the template; empty if the file asks for none.

    `auto` is the one that most of the models have, the earliest of them where two are as frequent.

    Raises:
        ConfigError: E137, a name we have no template for.
    """
    asked = document.chat_template
    if asked == "auto":
        found = []
        for folder in models.folders.values():
            if not isinstance(folder, AdapterFolder):
                text = stored_template(folder.path)
                found += [text.strip()] if text else []
        return Counter(found).most_common(1)[0][0] if found else ""
    if "{" in asked or not asked:
        return asked
    if asked in TEMPLATES:
        if asked in ODD_AT_MERGEKIT:
            models.notes.append(
                f"chat_template {asked}: as the format says; mergekit's has other blanks and line breaks"
            )
        return TEMPLATES[asked]
    todo = f"give its text, `auto`, or one of {', '.join(sorted(TEMPLATES))}"
    raise document.error("E137", ("chat_template",), "no template of this name", asked, todo)


def stored_template(folder: Path) -> str:
    """The chat template of a model folder, or nothing."""
    single = folder / "chat_template.jinja"
    if single.is_file():
        return single.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        try:
            stored = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(stored, list):  # several named ones
            stored = next((e.get("template") for e in stored if e.get("name") == "default"), None)
        if isinstance(stored, str) and stored:
            return stored
    return ""
