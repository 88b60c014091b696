"""evomerge: multi-objective evolutionary search over merges of language models.

`import evomerge as em` loads nothing heavy: each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.api.campaign import Campaign as Campaign
    from evomerge.api.campaign import Report as Report
    from evomerge.api.checkpoints import Exported as Exported
    from evomerge.api.checkpoints import merge as merge
    from evomerge.api.checkpoints import score as score
    from evomerge.api.front import Front as Front
    from evomerge.api.front import Member as Member
    from evomerge.api.run import Run as Run
    from evomerge.api.run import open as open
    from evomerge.errors import EvomergeError as EvomergeError
    from evomerge.evaluators.registered import evaluator as evaluator
    from evomerge.optimizers.kinds import optimizer as optimizer
    from evomerge.optimizers.proposals import Asked as Asked
    from evomerge.recipe.method import Coefficient as Coefficient
    from evomerge.recipe.registered import merge_method as merge_method

__version__ = "0.1.0"

_PUBLIC = {
    "Asked": ("optimizers.proposals", "Asked"),
    "Campaign": ("api.campaign", "Campaign"),
    "Coefficient": ("recipe.method", "Coefficient"),
    "EvomergeError": ("errors", "EvomergeError"),
    "Exported": ("api.checkpoints", "Exported"),
    "Front": ("api.front", "Front"),
    "Member": ("api.front", "Member"),
    "Report": ("api.campaign", "Report"),
    "Run": ("api.run", "Run"),
    "evaluator": ("evaluators.registered", "evaluator"),
    "merge": ("api.checkpoints", "merge"),
    "merge_method": ("recipe.registered", "merge_method"),
    "open": ("api.run", "open"),
    "optimizer": ("optimizers.kinds", "optimizer"),
    "score": ("api.checkpoints", "score"),
}
"""Public name to the module that has it, and its name there."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _MergeRoom(ModuleType):
    """The room `evomerge.merge`, which may be called as `evomerge.merge(recipe, out)`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module(f"{__package__}.api.checkpoints").merge(*args, **options)


class _Package(ModuleType):
    """This package.

    Python binds a room to its name here when the room is loaded, which would hide the public function of
    the same name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "merge" and isinstance(value, ModuleType):
            value.__class__ = _MergeRoom
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
