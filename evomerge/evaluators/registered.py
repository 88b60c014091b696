"""Functions that a person registers as evaluators in their own process, and how workers come by them.

A function of a module reaches a worker by the module's name: the worker imports it, with the driver's
`sys.path` where it is a local process. One of a script or a notebook has no module to import, so that its
source text travels in the worker's setup and is run there by itself: it may use what it imports inside, and
modules its file imported, but no other name of the file. Nothing is pickled.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

from evomerge.errors import ConfigError, Problem, UsageError

Function = Callable[..., Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Shipped:
    """A registered function as plain data: by the module that registers it, or by its text.

    Attributes:
        kind: what declarations call it.
        module: to import; empty for a function of a script or notebook.
        name: of the function.
        text: source that defines it by itself; empty with a module.
    """

    kind: str
    module: str
    name: str
    text: str


@dataclass(frozen=True)
class Registered:
    """A function, its SHA-256 (hex) by source, and how it gets to workers, or why it cannot."""

    function: Function
    digest: str
    shipped: Shipped | None
    why_not: str = ""


_REGISTERED: dict[str, Registered] = {}


def evaluator(kind: str) -> Callable[[Function], Function]:
    """Register a function as a kind of evaluator; registered again it takes the place of the one before.

    It is called for each block of items as `function(subject, items, options)` and gives, for each metric, a
    number for each item; see `evomerge.evaluators.python_callable`. A declaration (YAML) with this `kind`
    names its metrics, items and options.
    """

    def register(function: Function) -> Function:
        _REGISTERED[kind] = _registered(kind, function)
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
            if one.module:
                importlib.import_module(one.module)
            else:
                digest = hashlib.sha256(one.text.encode()).hexdigest()
                _REGISTERED[one.kind] = Registered(_defined(one), digest, one)
        except Exception as error:
            # Modules of others fail in any way they like when they are imported.
            wrong = f"the evaluator `{one.kind}` cannot be loaded in a worker"
            found = f"{type(error).__name__}: {error}"
            raise ConfigError(Problem("E123", wrong, found, field="kind")) from error
        if one.kind not in _REGISTERED:
            wrong = f"{one.module} registers no evaluator `{one.kind}` when it is imported"
            raise ConfigError(Problem("E123", wrong, field="kind"))


def _registered(kind: str, function: Function) -> Registered:
    module = getattr(function, "__module__", "__main__")
    if module != "__main__" and "<locals>" not in function.__qualname__:
        origin = getattr(sys.modules.get(module), "__file__", None)
        content = Path(origin).read_bytes() if origin else module.encode()
        digest = hashlib.sha256(content).hexdigest()
        return Registered(function, digest, Shipped(kind, module, function.__name__, ""))
    try:
        one = Shipped(kind, "", function.__name__, _text(function))
        _defined(one)
    except UsageError as error:
        code = function.__code__
        digest = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()
        return Registered(function, digest, None, str(error.problems[0].found))
    except (NameError, OSError, TypeError) as error:
        return Registered(function, "", None, f"its source cannot be run by itself: {error}")
    return Registered(function, hashlib.sha256(one.text.encode()).hexdigest(), one)


def _text(function: Function) -> str:
    """Source that defines a function by itself: without decorators and annotations, with its imports.

    Raises:
        UsageError: if it uses names that only its own file has.
        OSError: if Python does not know its source.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    defined = tree.body[0]
    if not isinstance(defined, ast.FunctionDef):
        raise _unfit("it is no function written with `def`")
    defined.decorator_list, defined.returns = [], None
    for argument in ast.walk(defined.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if function.__code__.co_freevars:
        raise _unfit(f"it uses `{function.__code__.co_freevars[0]}` of the function around it")
    imports = []
    for name in sorted(set(_globals(function.__code__))):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            imports.append(f"import {value.__name__} as {name}")
        elif name in function.__globals__ and name != function.__name__:
            raise _unfit(f"it uses `{name}` of its file; define or import that inside the function")
    return "\n".join([*imports, ast.unparse(defined)]) + "\n"


def _unfit(found: str) -> UsageError:
    return UsageError(Problem("E513", "the function cannot be sent to workers", found))


def _globals(code: CodeType) -> Iterator[str]:
    """Names that a function looks up in its module, also from functions inside it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _defined(one: Shipped) -> Function:
    names: dict[str, Function] = {}
    exec(compile(one.text, f"<evaluator {one.kind}>", "exec"), names)
    return names[one.name]
