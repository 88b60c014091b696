"""Versions of the libraries that results depend on, read from their metadata: none is imported."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import metadata

SCORING = ("torch", "transformers", "lm-eval", "safetensors", "numpy")
"""What the bits and scores of a merge depend on."""

LIBRARIES = (*SCORING, "pymoo", "moocore", "ray", "pydantic")
"""What a whole campaign depends on."""


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Version of evomerge and of each named library; `missing` for one that is not installed."""
    return {name: _version(name) for name in ("evomerge", *names)}


@functools.cache  # a process goes on with what it has imported
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"
