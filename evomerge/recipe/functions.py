"""Functions that a person registers in their own process, and how other processes come by them.

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
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from evomerge.errors import ConfigError, Problem, UsageError

Function = Callable[..., Any]


@dataclass(frozen=True)
class Shipped:
    """A registered function as plain data: by the module that registers it, or by its text.

    Attributes:
        kind: the name it is registered under.
        module: to import; empty for a function of a script or notebook.
        name: of the function.
        text: source that defines it by itself; empty with a module.
    """

    kind: str
    module: str
    name: str
    text: str

    def load(self) -> Function | None:
        """The function that the text defines; None after importing the module, which registers its own."""
        if self.module:
            importlib.import_module(self.module)
            return None
        names: dict[str, Function] = {}
        exec(compile(self.text, f"<{self.kind}>", "exec"), names)
        return names[self.name]


@dataclass(frozen=True)
class Registered:
    """A function, its SHA-256 (hex) by source, and how it gets to workers, or why it cannot."""

    function: Function
    digest: str
    shipped: Shipped | None
    why_not: str = ""


def refuse_no_name(decorator: str, name: object) -> None:
    """See that a decorator was given a name, and not the function itself.

    Raises:
        UsageError: E512.
    """
    if not isinstance(name, str) or not name:
        todo = f'write `@evomerge.{decorator}("NAME")`'
        raise UsageError(Problem("E512", f"`@evomerge.{decorator}` needs a name", "", todo))


def registered_function(kind: str, function: Function) -> Registered:
    """A function under a name; the digest is of its module's file, or of its text where there is none."""
    module = getattr(function, "__module__", "__main__")
    if module != "__main__" and "<locals>" not in function.__qualname__:
        origin = getattr(sys.modules.get(module), "__file__", None)
        content = Path(origin).read_bytes() if origin else module.encode()
        digest = hashlib.sha256(content).hexdigest()
        return Registered(function, digest, Shipped(kind, module, function.__name__, ""))
    try:
        one = Shipped(kind, "", function.__name__, source_text(function))
        one.load()
    except UsageError as error:
        return Registered(function, _code_digest(function), None, str(error.problems[0].found))
    except (NameError, OSError, SyntaxError, TypeError) as error:
        why = f"its source cannot be run by itself: {error}"
        return Registered(function, _code_digest(function), None, why)
    return Registered(function, hashlib.sha256(one.text.encode()).hexdigest(), one)


def _code_digest(function: Function) -> str:
    """SHA-256 (hex) of compiled code, for a function whose source cannot be had."""
    hasher = hashlib.sha256()

    def add(code: CodeType) -> None:
        hasher.update(code.co_code + repr(code.co_names).encode())
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                add(constant)
            else:
                hasher.update(repr(constant).encode())

    add(function.__code__)
    return hasher.hexdigest()


def source_text(function: Function) -> str:
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


def source_digest(registered: Registered) -> str:
    """SHA-256 (hex) of a function's own text where it stands by itself, wherever it lies; else its digest."""
    try:
        text = source_text(registered.function)
    except (UsageError, OSError, SyntaxError, TypeError):
        return registered.digest
    return hashlib.sha256(text.encode()).hexdigest()


def load_installed(
    group: str, name: str, known: Container[str], what: str, todo: str, field: str
) -> None:
    """Import the installed module that an entry point says registers `name`; nothing where none does.

    Args:
        group: of the entry points.
        name: of the entry point, and of what it registers.
        known: the names that are registered, which the import must add `name` to.
        what: the kind of thing, in words.
        todo: what the module's author is to do if it does not.
        field: where the name was written.

    Raises:
        ConfigError: E123, the module cannot be imported or does not register it.
    """
    for entry in metadata.entry_points(group=group, name=name):
        try:
            entry.load()
        except Exception as error:
            # Modules of others fail in any way they like when they are imported.
            found = f"{type(error).__name__}: {error}"
            wrong = f"{entry.value} cannot be imported"
            raise ConfigError(Problem("E123", wrong, found, field=field)) from error
        if name not in known:
            wrong = f"{entry.value} registers no {what} `{name}`"
            raise ConfigError(Problem("E123", wrong, "", todo, field=field))
