"""Merge methods of one function each, which a person registers in their own process; how to find any method.

By the decorator `merge_method`, or from an entry point of the group `evomerge.methods`, whose module uses it.
The function is run by `merge.passes.by_function`; this module is torch-free, like all that drivers read.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TypeVar

from evomerge.errors import ConfigError, Problem, UsageError
from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.functions import (
    Function,
    Registered,
    Shipped,
    load_installed,
    refuse_no_name,
    registered_function,
    source_digest,
)
from evomerge.recipe.method import Coefficient, MergeMethod

GROUP = "evomerge.methods"
"""Entry points of modules that register merge methods; the name of one is that of its method."""

OwnFunction = TypeVar("OwnFunction", bound=Function)


@dataclass(frozen=True)
class OwnMethod:
    """A registered method: its declaration, its function, and how that gets to workers."""

    method: MergeMethod
    registered: Registered


@dataclass(frozen=True)
class ShippedMethod:
    """A registered method as plain data, for another process."""

    method: MergeMethod
    function: Shipped


_REGISTERED: dict[str, OwnMethod] = {}


def merge_method(
    name: str,
    *coefficients: Coefficient,
    inputs: tuple[int, int | None] = (1, None),
    about: str = "",
) -> Callable[[OwnFunction], OwnFunction]:
    """Register a function of one tensor as a merge method, for this process.

    It is called as `function(base, experts, **coefficients)` and gives the merged tensor. `base` and each of
    the list `experts`, in the order of their names, are float32 tensors of one shape on the CPU, the
    function's own copies; a coefficient is a float, one that is `per_input` a list of floats, one an expert.
    It runs on one thread, so that a live model and an export get the same bits. Registered again, as when the
    cell of a notebook runs again, it takes the place of the one before.

    Args:
        name: what a search space or recipe calls it.
        coefficients: what it takes besides tensors, under these names.
        inputs: least and largest number of experts (None: no limit).
        about: one line for `evomerge list methods`; the first of the docstring if empty.

    Raises:
        UsageError: E512, for the name of a built-in method, for coefficients that the function does not take,
            and for bounds that are no range with the default inside.
    """
    refuse_no_name("merge_method", name)
    if name in METHODS:
        problem = Problem("E512", f"`{name}` is a built-in merge method", "", "choose another name")
        raise UsageError(problem)
    for each in coefficients:
        bounds = (each.low, each.default, each.high)
        if not (all(map(math.isfinite, bounds)) and each.low < each.high) or sorted(bounds) != list(
            bounds
        ):
            wrong = (
                f"coefficient `{each.name}` of `{name}` must have low < high and its default between"
            )
            found = f"found low {each.low}, default {each.default}, high {each.high}"
            raise UsageError(Problem("E512", wrong, found))

    def register(function: OwnFunction) -> OwnFunction:
        names = {each.name: 0.0 for each in coefficients}
        try:
            inspect.signature(function).bind(None, [], **names)
        except TypeError as error:
            wanted = ", ".join(("base", "experts", *names))
            wrong = f"the function of `{name}` must take ({wanted})"
            raise UsageError(Problem("E512", wrong, str(error))) from None
        line = about or (function.__doc__ or "").strip().partition("\n")[0]
        registered = registered_function(name, function)
        method = MergeMethod(
            name, line, coefficients, "function", inputs=inputs, function=source_digest(registered)
        )
        _REGISTERED[name] = OwnMethod(method, registered)
        return function

    return register


def own_methods() -> Mapping[str, OwnMethod]:
    """What this process has registered, by name."""
    return _REGISTERED


def known_methods() -> tuple[str, ...]:
    """Names of the built-in methods, of registered and of installed ones."""
    return (*METHODS, *_REGISTERED, *installed_methods())


def installed_methods() -> dict[str, str]:
    """Name to where it comes from of methods that are installed and not registered yet."""
    found = {entry.name: entry.value for entry in metadata.entry_points(group=GROUP)}
    return {name: value for name, value in found.items() if name not in {*METHODS, *_REGISTERED}}


def find_method(name: str) -> MergeMethod:
    """The method of that name: built-in, registered, or installed.

    Raises:
        ConfigError: E114, there is none; E123, its package cannot be imported or does not register it.
    """
    if name not in METHODS and name not in _REGISTERED:
        _load_installed(name)
    if name in METHODS:
        return METHODS[name]
    if name not in _REGISTERED:
        raise ConfigError(unknown_method(name))
    return _REGISTERED[name].method


def unknown_method(name: str, field: str = "method") -> Problem:
    """E114, with what to do."""
    near = difflib.get_close_matches(name, known_methods(), n=1)
    todo = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known_methods()))}."
    todo += f' One of your own must be registered in this process by `@evomerge.merge_method("{name}")`'
    todo += f", or installed under an entry point `{name}` of the group `{GROUP}`"
    return Problem("E114", "unknown merge method", f"found {name!r}", todo, field=field)


def changed_method(method: MergeMethod, recorded: str, field: str = "function") -> Problem | None:
    """E514 where a recipe or ledger means another function than the one registered; None where it fits.

    An empty digest fits a registered method, as in a recipe that was written by hand.
    """
    if recorded in (method.function, ""):
        return None
    wrong = f"the function of the merge method `{method.name}` is not the one that was recorded"
    found = f"its SHA-256 is {method.function[:16] or 'none'}, recorded was {recorded[:16]}"
    todo = "register the function as it was, or begin anew under another name"
    return Problem("E514", wrong, found, todo, field=field)


def shipped_methods(names: Iterable[str]) -> tuple[ShippedMethod, ...]:
    """What workers need for these methods; built-in ones, and those that cannot be sent, are left out."""
    known = [_REGISTERED[name] for name in names if name in _REGISTERED]
    return tuple(
        ShippedMethod(own.method, own.registered.shipped)
        for own in known
        if own.registered.shipped is not None
    )


def install_methods(methods: Iterable[ShippedMethod]) -> None:
    """Register in this process what another one shipped.

    Raises:
        ConfigError: E123, if a module cannot be imported or does not register it.
    """
    for one in methods:
        name = one.method.name
        if name in _REGISTERED:
            continue
        try:
            function = one.function.load()
        except Exception as error:
            # Modules of others fail in any way they like when they are imported.
            wrong = f"the merge method `{name}` cannot be loaded in a worker"
            found = f"{type(error).__name__}: {error}"
            raise ConfigError(Problem("E123", wrong, found, field="method")) from error
        if function is not None:
            registered = Registered(function, one.method.function, one.function)
            _REGISTERED[name] = OwnMethod(one.method, registered)
        elif name not in _REGISTERED:
            wrong = f"{one.function.module} registers no merge method `{name}` when it is imported"
            raise ConfigError(Problem("E123", wrong, field="method"))


def _load_installed(name: str) -> None:
    todo = f'decorate its function with `@evomerge.merge_method("{name}")`'
    load_installed(GROUP, name, _REGISTERED, "merge method", todo, "method")
