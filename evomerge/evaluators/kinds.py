"""The kinds of evaluators there are, and the declaration behind a YAML file of any kind."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from evomerge.errors import ConfigError, Problem
from evomerge.evaluators.declaration import load_evaluator
from evomerge.evaluators.declared import Declaration
from evomerge.evaluators.generation_length import LengthDeclaration
from evomerge.evaluators.item_files import ItemsDeclaration
from evomerge.evaluators.perplexity import PerplexityDeclaration
from evomerge.evaluators.python_callable import CallableDeclaration, entry_points
from evomerge.evaluators.whole_model import DistanceDeclaration, LatencyDeclaration, SizeDeclaration
from evomerge.files.yaml_file import load_yaml, position, validate

KINDS: Mapping[str, str] = {
    "lm_eval": "lm-eval tasks from a folder of task files, one task for each split",
    "perplexity": "perplexity per token on a text file",
    "length": "tokens written in answer to prompts",
    "distance": "L1 and L2 distance of the weights to the base",
    "size": "number of parameters and layers",
    "latency": "seconds per token, measured (not deterministic)",
}
"""Built-in kind to one line about it; installed functions come beside them and do not replace them."""

_DECLARATIONS: Mapping[str, type[Declaration]] = {
    "perplexity": PerplexityDeclaration,
    "length": LengthDeclaration,
    "distance": DistanceDeclaration,
    "size": SizeDeclaration,
    "latency": LatencyDeclaration,
}


def load_declaration(path: Path) -> Declaration:
    """Read a declaration of any kind; paths in it come back absolute.

    Raises:
        ConfigError: with every fault of the file itself, E108 for an unknown kind;
            `Declaration.problems` finds those of what it names.
    """
    data, positions = load_yaml(path)
    kind = data.get("kind", "lm_eval")
    if kind == "lm_eval":
        return load_evaluator(path)
    installed = entry_points()
    if not isinstance(kind, str) or kind not in (*_DECLARATIONS, *installed):
        known = (*KINDS, *installed)
        near = difflib.get_close_matches(str(kind), known, n=1)
        todo = f"did you mean `{near[0]}`?" if near else f"kinds: {', '.join(known)}"
        place = (str(path), *position(positions, ("kind",)), "kind")
        raise ConfigError(Problem("E108", "no such kind of evaluator", f"found {kind!r}", todo, *place))
    model = _DECLARATIONS.get(kind, CallableDeclaration)
    declaration = validate(model, data, positions, str(path))
    if isinstance(declaration, ItemsDeclaration):
        declaration = declaration.model_copy(update=declaration.beside(path.parent))
    declaration._file = str(path)
    declaration._positions = dict(positions)
    return declaration
