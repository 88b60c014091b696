"""Next-line items from the source of the Python standard library that runs this script."""

from __future__ import annotations

import ast
import keyword
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from data_common import SEED, Item, make_item, split_of

CONTEXT_LINES = 3
_SKIPPED = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings",
    "pydoc_data", "turtledemo", "_bundled", "lib-dynload",
}  # fmt: skip
_SIMPLE = (ast.Assign, ast.AugAssign, ast.Return, ast.Expr, ast.Raise, ast.Assert, ast.Delete)
_WORD = re.compile(r"(?<![\w'\"])[A-Za-z_]\w+")
_SLIPS = [
    (" == ", " != "), (" != ", " == "), (" < ", " > "), (" > ", " < "), (" <= ", " < "),
    (" >= ", " > "), (" + ", " - "), (" - ", " + "), (" += ", " -= "), (" -= ", " += "),
    (" and ", " or "), (" or ", " and "), (" is not ", " is "), (" not in ", " in "),
    ("= True", "= False"), ("= False", "= True"), ("= None", "= self"), ("[0]", "[1]"),
    ("[1:]", "[:1]"), ("[1]", "[0]"), (".append(", ".extend("), ("(self, ", "("), ("(not ", "("),
]  # fmt: skip


def source_files() -> list[tuple[str, str]]:
    """Return relative path and text of every library file that is used."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        # The build configuration differs from machine to machine.
        if _SKIPPED & set(parts) or parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.isascii():
            files.append(("/".join(parts), text))
    return files


def generate(split: str, files: list[tuple[str, str]], per_file: int) -> Iterator[Item]:
    """Yield items of one split; a file is in one split as a whole.

    Args:
        split: The split wanted.
        files: What `source_files` returned.
        per_file: The largest number of items from one file.
    """
    rng = random.Random(f"{SEED}-code-{split}")
    mine = [(name, text) for name, text in files if split_of(name) == split]
    rng.shuffle(mine)
    seen: set[str] = set()
    for name, text in mine:
        spots = list(statements(text))
        lines = [gold for _, gold in spots]
        words = sorted(set(_WORD.findall(text)) - set(keyword.kwlist))
        chosen = 0
        for number, (context, gold) in enumerate(rng.sample(spots, len(spots))):
            wrong = distractors(context, gold, lines, words, rng)
            if wrong is None or context in seen:
                continue
            seen.add(context)
            yield make_item(f"code-{split}-{name}-{number}", context, gold, wrong, rng)
            if (chosen := chosen + 1) == per_file:
                break


def statements(text: str) -> Iterator[tuple[str, str]]:
    """Yield context and line for every simple statement that fills one line."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    lines = text.splitlines()
    numbers = sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, _SIMPLE) and node.lineno == node.end_lineno
    )
    for number in numbers:
        gold = lines[number - 1].split("  #")[0]
        context = [line.rstrip() for line in lines[: number - 1] if line.strip()][-CONTEXT_LINES:]
        if not 12 <= len(gold.strip()) <= 60 or len(context) < CONTEXT_LINES:
            continue
        if any(len(line) > 72 for line in context) or '"""' in gold:
            continue
        yield textwrap.dedent("\n".join([*context])), gold.strip()


def distractors(
    context: str, gold: str, lines: list[str], words: list[str], rng: random.Random
) -> list[str] | None:
    """Return one other line of the file and two near misses of the line, or None."""
    edits = near_misses(context, gold, words, rng)
    others = sorted({line for line in lines if line != gold and line not in context})
    others = [line for line in others if line not in edits]
    if len(edits) < 2 or not others:
        return None
    return [*edits[:2], rng.choice(others)]


def near_misses(context: str, gold: str, words: list[str], rng: random.Random) -> list[str]:
    """Return wrong variants of a line: a slip of an operator, or another name in place of one."""
    slips = [gold.replace(old, new, 1) for old, new in _SLIPS if old in gold]
    nearby = sorted(set(_WORD.findall(context)) - set(keyword.kwlist))
    renamed = []
    for match in _WORD.finditer(gold):
        if keyword.iskeyword(match.group()) or match.group() == "self":
            continue
        for pool in (nearby, words):
            name = rng.choice(pool) if pool else match.group()
            renamed.append(gold[: match.start()] + name + gold[match.end() :])
    rng.shuffle(slips)
    rng.shuffle(renamed)
    unique = dict.fromkeys(slips[:1] + renamed + slips[1:])
    return [text for text in unique if text != gold]
