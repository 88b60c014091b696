"""The rooms of the package, floor by floor, and how its modules import one another, read from the source.

`python -m tests.layers` prints the floors, the rooms on each with what they import, and the deferred imports.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "evomerge"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("objectives", "errors", "failpoint", "versions"),
    ("recipe", "files"),
    ("search_space", "ledger", "evaluators"),
    ("checkpoint", "front"),
    ("merge",),
    ("optimizers",),
    ("campaign", "testing"),
    ("mergekit",),
    ("run",),
    ("export",),
    ("report",),
    ("cli", "api"),
)
"""From the ground up. A room imports only rooms on lower floors, and none on its own."""

MODULES = ("errors", "failpoint", "versions")
"""What lies in the package beside its rooms."""

HEAVY = (
    "accelerate", "botorch", "datasets", "evaluate", "huggingface_hub", "lm_eval", "matplotlib", "moocore",
    "mlflow", "optuna", "pandas", "peft", "plotly", "pymoo", "ray", "scipy", "tensorboard", "tokenizers",
    "torch", "transformers", "wandb",
)  # fmt: skip
"""Libraries that cost their importer a tenth of a second or more, or that not every process needs."""


@dataclass(frozen=True)
class Import:
    """One import statement's name: `where` is `top`, `typing` (for type checkers only) or `function`."""

    module: str
    imported: str
    line: int
    where: str


def module_name(path: Path) -> str:
    """`evomerge.front.front` for its file; a folder's own name for its `__init__.py`."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    """Dotted name to file, for every module of the package."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


SOURCES = sources()


def imports_of(module: str) -> list[Import]:
    """Every import in a module, also those in functions and those for type checkers."""
    found: list[Import] = []

    def names(node: ast.Import | ast.ImportFrom) -> Iterable[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        assert node.level == 0, f"{module}:{node.lineno}: relative import"
        full = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in SOURCES else str(node.module) for name in full]

    def visit(body: Iterable[ast.AST], where: str) -> None:
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.extend(Import(module, name, node.lineno, where) for name in names(node))
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.body, "typing")
                visit(node.orelse, where)
            else:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                visit(ast.iter_child_nodes(node), "function" if inside else where)

    visit(ast.parse(SOURCES[module].read_text(encoding="utf-8")).body, "top")
    return found


@functools.cache
def imports() -> Mapping[str, list[Import]]:
    """Every import in every module; the whole package is parsed for it, which takes seconds."""
    return {module: imports_of(module) for module in SOURCES}


def own(name: str) -> bool:
    """Whether a dotted name is a module of the package below its root."""
    return name.startswith("evomerge.")


def room_of(module: str) -> str:
    """The room (or the module beside the rooms) that a module lies in."""
    return module.split(".")[1]


def floor_of(module: str) -> int:
    """The floor of a module's room, 0 for the ground.

    Raises:
        AssertionError: if the table does not have the room.
    """
    room = room_of(module)
    for floor, rooms in enumerate(FLOORS):
        if room in rooms:
            return floor
    raise AssertionError(f"evomerge/{room} is on no floor: put it into FLOORS, or into a room")


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of nodes that reach one another along arrows (strongly connected, of two or more)."""
    reached: dict[str, set[str]] = {}
    for start in arrows:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for following in arrows.get(waiting.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        reached[start] = seen
    groups = {
        tuple(sorted(other for other in reached if other in reached[node] and node in reached[other]))
        for node in arrows
        if node in reached[node]
    }
    return sorted(map(list, groups))


def loaded_by(module: str) -> frozenset[str]:
    """The heavy libraries that importing a module loads."""
    seen: set[str] = set()
    heavy: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parts = name.split(".")
        if parts[0] != "evomerge":
            heavy |= {parts[0]} & set(HEAVY)
            continue
        waiting += [".".join(parts[:count]) for count in range(1, len(parts))]  # packages around it
        waiting += [each.imported for each in imports().get(name, ()) if each.where == "top"]
    return frozenset(heavy)


def deferred() -> dict[str, list[str]]:
    """By module: what its functions import of the package and of heavy libraries."""
    found: dict[str, list[str]] = {}
    for module, statements in imports().items():
        names = {
            each.imported
            for each in statements
            if each.where == "function" and (own(each.imported) or each.imported.split(".")[0] in HEAVY)
        }
        if names:
            found[module] = sorted(names)
    return found


def table() -> str:
    """Floors from the top, each room with the rooms it imports."""
    below: dict[str, set[str]] = {}
    for module, statements in imports().items():
        if own(module):
            others = {room_of(each.imported) for each in statements if own(each.imported)}
            below.setdefault(room_of(module), set()).update(others - {room_of(module)})
    lines = []
    for floor in range(len(FLOORS) - 1, -1, -1):
        for room in FLOORS[floor]:
            lines.append(f"{floor + 1:2}  {room:13} <- {' '.join(sorted(below.get(room, ()))) or '-'}")
    arrows = sum(map(len, below.values()))
    return "\n".join([*lines, f"{len(below)} rooms and modules, {arrows} arrows, {len(FLOORS)} floors"])


if __name__ == "__main__":
    print(table())
    for importer, names in deferred().items():
        print(f"deferred in {importer}: {', '.join(names)}")
