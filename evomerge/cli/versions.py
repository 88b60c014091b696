"""Versions of evomerge and of the libraries its results depend on, without importing them."""

from __future__ import annotations

import platform
from importlib import metadata

from evomerge import __version__

LIBRARIES = (
    "torch",
    "transformers",
    "lm-eval",
    "safetensors",
    "pymoo",
    "moocore",
    "numpy",
    "ray",
    "pydantic",
)


def version_lines() -> list[str]:
    """One line each for evomerge, Python and every library; `missing` where one is not installed."""
    lines = [f"evomerge {__version__}", f"python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} missing")
    return lines
