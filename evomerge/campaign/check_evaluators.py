"""Faults of a campaign's evaluators, and of own functions that its workers must be given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from evomerge.campaign.campaign import Campaign
from evomerge.checkpoint.habits import writes_chats
from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.declaration import Declaration, OpenedItems
from evomerge.evaluators.kinds import load_declaration
from evomerge.evaluators.registered import registered
from evomerge.recipe.registered import own_methods


def open_evaluators(
    campaign: Campaign,
    problems: list[Problem],
    allow_code: bool,
    opened: dict[Path, OpenedItems] | None,
) -> dict[Path, Declaration]:
    """Declarations by file; the items of those without faults come into `opened`, where it is given."""
    declarations: dict[Path, Declaration] = {}
    names: dict[str, Path] = {}
    for path in campaign.evaluator_files:
        try:
            declaration = load_declaration(path)
        except ConfigError as error:
            problems += error.problems
            continue
        found = declaration.problems(allow_code=allow_code)
        problems += found
        if declaration.name in names:
            wrong = f"two evaluators are called `{declaration.name}`"
            problems.append(Problem("E122", wrong, todo="rename one", file=str(path), field="name"))
        names[declaration.name] = path
        declarations[path] = declaration
        if opened is None or found:
            continue
        try:
            opened[path] = declaration.open_items(allow_code=allow_code)
        except ConfigError as error:
            problems += error.problems
    return declarations


def cannot_chat(declarations: Iterable[Declaration], folder: Path) -> list[Problem]:
    """E154 for evaluators that ask as in a chat, where the tokenizer of merges has no template for one.

    Args:
        declarations: of the evaluators.
        folder: of the model whose tokenizer merges have.
    """
    if writes_chats(folder):
        return []
    field = "apply_chat_template"
    wrong = "the tokenizer of merges has no chat template"
    todo = "leave it out, or give that folder a chat_template.jinja"
    return [
        declaration.fault(field, "E154", wrong, f"none in {folder}", todo)
        for declaration in declarations
        if getattr(declaration, field, False)
    ]


def cannot_be_sent(campaign: Campaign, declarations: Mapping[Path, Declaration]) -> list[Problem]:
    """E513 for a merge method and evaluators registered here that cannot be given to other processes."""
    if campaign.config.workers.pool == "inline":
        return []
    todo = "put it into a module that workers can import, or use `workers: {pool: inline}`"
    method = campaign.space.method
    own = own_methods().get(method)
    unsent = []
    if own is not None and own.registered.why_not:
        wrong = f"the function of `{method}` cannot be sent to workers"
        where = str(campaign.space_file)
        unsent.append(Problem("E513", wrong, own.registered.why_not, todo, where, field="method"))
    return unsent + [
        Problem("E513", f"the function of `{declaration.kind}` cannot be sent to workers", why, todo,
                str(path), field="kind")
        for path, declaration in declarations.items()
        if declaration.kind in registered() and (why := registered()[declaration.kind].why_not)
    ]  # fmt: skip
