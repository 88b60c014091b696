"""Functions that a person registers as evaluators in their own process; see `recipe.functions`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.functions import Registered, Shipped, refuse_no_name, registered_function

Function = Callable[..., Mapping[str, Sequence[float]]]

_REGISTERED: dict[str, Registered] = {}


def evaluator(kind: str) -> Callable[[Function], Function]:
    """Register a function as a kind of evaluator; registered again it takes the place of the one before.

    It is called for each block of items as `function(subject, items, options)` and gives, for each metric, a
    number for each item; see `evomerge.evaluators.python_callable`. A declaration (YAML) with this `kind`
    names its metrics, items and options.

    Raises:
        UsageError: E512, without a name.
    """
    refuse_no_name("evaluator", kind)

    def register(function: Function) -> Function:
        _REGISTERED[kind] = registered_function(kind, function)
        return function

    return register


def registered() -> Mapping[str, Registered]:
    """What this process knows, by kind."""
    return _REGISTERED


def shipped(kinds: Iterable[str]) -> tuple[Shipped, ...]:
    """What workers need for these kinds; those that are not registered functions are left out."""
    known = (_REGISTERED[kind].shipped for kind in kinds if kind in _REGISTERED)
    return tuple(found for found in known if found is not None)


def install(functions: Iterable[Shipped]) -> None:
    """Register in this process what another one shipped.

    Raises:
        ConfigError: E123, if a module cannot be imported or does not register it.
    """
    for one in functions:
        if one.kind in _REGISTERED:
            continue
        try:
            function = one.load()
            if function is not None:
                digest = hashlib.sha256(one.text.encode()).hexdigest()
                _REGISTERED[one.kind] = Registered(function, digest, one)
        except Exception as error:
            # Modules of others fail in any way they like when they are imported.
            wrong = f"the evaluator `{one.kind}` cannot be loaded in a worker"
            found = f"{type(error).__name__}: {error}"
            raise ConfigError(Problem("E123", wrong, found, field="kind")) from error
        if one.kind not in _REGISTERED:
            wrong = f"{one.module} registers no evaluator `{one.kind}` when it is imported"
            raise ConfigError(Problem("E123", wrong, field="kind"))
