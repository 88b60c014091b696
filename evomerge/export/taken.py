"""A tokenizer and a chat template that an export takes from another model of its merge. Torch-free.

Both become part of the recipe that is published, so that `evomerge merge recipe.json` gives the same files;
what the candidate of a campaign had in their place stands in `evomerge.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint.folder import text_config
from evomerge.checkpoint.vocabulary import token_ids
from evomerge.errors import Problem, UsageError
from evomerge.mergekit.chat import stored_template
from evomerge.recipe.recipe import CheckpointSource, Recipe

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True)
class Taken:
    """Names of the sources an export has its tokenizer and its chat template from; None leaves them."""

    tokenizer: str | None = None
    chat_template: str | None = None

    def __bool__(self) -> bool:
        return self.tokenizer is not None or self.chat_template is not None

    def __str__(self) -> str:
        parts = {"the tokenizer": self.tokenizer, "the chat template": self.chat_template}
        return " and ".join(f"{what} of {name}" for what, name in parts.items() if name is not None)


NOTHING = Taken()


def take(recipe: Recipe, taken: Taken, others: Mapping[str, CheckpointSource] | None = None) -> Recipe:
    """The recipe with another tokenizer or chat template.

    Args:
        recipe: with paths that exist.
        others: models that the recipe does without, and that may be named too.
        taken: whose. A tokenizer brings the config, the generation settings and the chat template of its
            model; a chat template that the recipe states is kept unless another is taken.

    Raises:
        UsageError: E500, no such source, it has no such file, its tokens do not fit, or the merge has a
            vocabulary of its own.
    """
    known = {**(others or {}), **recipe.checkpoints}
    if taken.tokenizer is not None:
        _check_tokenizer(recipe, known, taken.tokenizer)
        sources = {**recipe.sources, taken.tokenizer: known[taken.tokenizer]}
        recipe = replace(recipe, sources=sources, tokenizer=taken.tokenizer)
    if taken.chat_template is not None:
        folder = _folder(known, taken.chat_template, "--chat-template-from")
        text = stored_template(folder)
        if not text:
            wrong = f"`{taken.chat_template}` has no chat template"
            having = [n for n, s in known.items() if stored_template(Path(s.path))]
            todo = f"these have one: {', '.join(having)}" if having else "none of the models has one"
            raise UsageError(
                Problem("E500", wrong, "", todo, str(folder), field="--chat-template-from")
            )
        recipe = replace(recipe, chat_template=text)
    return recipe


def searched_parts(recipe: Recipe) -> dict[str, Any]:
    """What of a candidate's recipe an export may have replaced, for `evomerge.json`, with its digest."""
    return {
        "recipe": recipe.digest,
        "sources": list(recipe.sources),
        "tokenizer": recipe.tokenizer,
        "chat_template": recipe.chat_template,
    }


def as_searched(published: Recipe, parts: Mapping[str, Any]) -> Recipe:
    """The recipe of a candidate, from the one that was published and its `searched_parts`."""
    return replace(
        published,
        sources={name: published.sources[name] for name in parts["sources"]},
        tokenizer=str(parts["tokenizer"]),
        chat_template=str(parts["chat_template"]),
    )


def _folder(known: Mapping[str, CheckpointSource], name: str, option: str) -> Path:
    if name not in known:
        todo = f"its models: {', '.join(known)}"
        raise UsageError(Problem("E500", f"`{name}` is no model of this merge", "", todo, field=option))
    return Path(known[name].path)


def _check_tokenizer(recipe: Recipe, known: Mapping[str, CheckpointSource], name: str) -> None:
    option = "--tokenizer-from"
    folder = _folder(known, name, option)
    if recipe.align:
        wrong = "this merge has a vocabulary of its own, and rows in its order"
        found, todo = (
            f"tokenizer: {{source: {recipe.tokenizer}}}",
            "state another `tokenizer` in the campaign or recipe",
        )
        raise UsageError(Problem("E500", wrong, found, todo, field=option))
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        wrong, todo = f"`{name}` has no tokenizer files", "name another model"
        raise UsageError(Problem("E500", wrong, "", todo, str(folder), field=option))
    rows, ids = _rows(recipe), token_ids(folder)
    if rows is not None and ids and max(ids.values()) >= rows:
        wrong = f"the tokenizer of `{name}` has tokens that the merge has no row for"
        found = f"an id of {max(ids.values())}, {rows} rows"
        todo = "`tokenizer: {source: union}` in a campaign or recipe gives them rows"
        raise UsageError(Problem("E500", wrong, found, todo, str(folder), field=option))


def _rows(recipe: Recipe) -> int | None:
    """Rows of the embedding, as the first full model of the recipe says."""
    for source in recipe.checkpoints.values():
        try:
            config = json.loads((Path(source.path) / "config.json").read_text(encoding="utf-8"))
            rows = text_config(config).get("vocab_size")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(rows, int):
            return rows
    return None
