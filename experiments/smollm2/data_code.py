"""Fill-in-the-name items from the source of the Python standard library that runs this script."""

from __future__ import annotations

import io
import keyword
import random
import sysconfig
import textwrap
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_common import SEED, Item, make_item, split_of

BLANK = "___"
WINDOW_LINES = 4
WINDOW_CHARACTERS = 150
_SKIPPED = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings",
    "pydoc_data", "turtledemo", "_bundled", "lib-dynload",
}  # fmt: skip
_TOO_COMMON = {*keyword.kwlist, *keyword.softkwlist, "self", "cls"}


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
    for name, text in mine:
        blanks = list(blanked_windows(text, rng))
        chosen = rng.sample(blanks, min(per_file, len(blanks)))
        for number, (prompt, gold, others) in enumerate(chosen):
            yield make_item(f"code-{split}-{name}-{number}", prompt, gold, others, rng)


def blanked_windows(text: str, rng: random.Random) -> Iterator[tuple[str, str, list[str]]]:
    """Yield lines of code with a blank, the name that belongs there, and three that do not.

    All four names are in sight in the other places, so that only their use tells them apart.
    """
    lines = text.splitlines()
    names = names_by_line(text)
    for first in range(0, len(lines) - WINDOW_LINES, WINDOW_LINES):
        window = lines[first : first + WINDOW_LINES]
        if sum(map(len, window)) > WINDOW_CHARACTERS + 8 * WINDOW_LINES:
            continue
        spots = [
            (row, column, name)
            for row in range(WINDOW_LINES)
            for column, name in names[first + row + 1]
        ]
        seen = [name for _, _, name in spots]
        repeated = [spot for spot in spots if seen.count(spot[2]) > 1]
        if len(set(seen)) < 4 or not repeated:
            continue
        row, column, gold = rng.choice(repeated)
        window[row] = window[row][:column] + BLANK + window[row][column + len(gold) :]
        prompt = textwrap.dedent("\n".join(window)).strip("\n")
        if len(prompt) <= WINDOW_CHARACTERS:
            yield prompt, gold, rng.sample(sorted(set(seen) - {gold}), 3)


def names_by_line(text: str) -> dict[int, list[tuple[int, str]]]:
    """Return column and text of the names on each line, counted from 1."""
    names: dict[int, list[tuple[int, str]]] = defaultdict(list)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string not in _TOO_COMMON:
                names[token.start[0]].append((token.start[1], token.string))
    except (tokenize.TokenError, SyntaxError):
        names.clear()
    return names
