"""Paths that one file names relative to itself, in the form in which people read them."""

from __future__ import annotations

import os
from pathlib import Path


def without_detours(path: Path) -> Path:
    """`a/b/../c` as `a/c`, links kept; as it is where `b` is a link, from which `..` leads elsewhere."""
    plain = Path(os.path.normpath(path))
    try:
        same = os.path.realpath(plain.parent) == os.path.realpath(path.parent)
    except ValueError:  # NUL in the name; whoever opens the file says so
        return path
    return plain if same else path
