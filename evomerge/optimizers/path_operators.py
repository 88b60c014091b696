"""Variation that respects paths of layers: edits of a path, and two paths crossed.

A path is a sequence of steps; what lies next to what matters in it, and numbers of layers do not blend. So a
child keeps runs of its parents, and a mutant is a few edits away: layers inserted, left out, repeated,
exchanged for those of another source at the same depth, or put elsewhere. Whatever a search starts from are
such edits of the layers in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evomerge.search_space import LayerPaths, Step

Path = tuple[Step, ...]

_TRIES = 20
_PLAIN_SHARE = 0.2
"""Of the paths to start from: those without an edit."""


def start_rows(
    paths: LayerPaths, given: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of edits of the layers in order of each source, and of given rows, float64 [count, genes]."""
    origins = [paths.identity(source) for source in paths.sources]
    origins += [paths.steps(row) for row in given.tolist()]
    origins = list(dict.fromkeys([paths.home, *origins]))
    rows = []
    for number in range(count):
        path = origins[number % len(origins)]
        if rng.random() >= _PLAIN_SHARE:
            for _ in range(int(rng.geometric(0.5))):
                path = edited(paths, path, rng)
        rows.append(paths.spell(path))
    return np.array(rows, dtype=np.float64).reshape(count, len(paths))


def cross_rows(
    paths: LayerPaths, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two rows crossed: float64 [genes] each. Children that keep no limit are their parents."""
    if paths.form == "indicator":
        start, stop = _range(paths.slots, rng)
        swapped = np.zeros(len(first), dtype=bool)
        for block in range(len(first) // paths.slots):
            swapped[block * paths.slots + start : block * paths.slots + stop] = True
        rows = (np.where(swapped, second, first), np.where(swapped, first, second))
        return tuple(np.array(paths.canonical(row.tolist())) for row in rows)  # type: ignore[return-value]
    one, two = crossed(paths, paths.steps(first.tolist()), paths.steps(second.tolist()), rng)
    return np.array(paths.spell(one)), np.array(paths.spell(two))


def mutate_row(paths: LayerPaths, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A row some edits away, one mostly: float64 [genes]."""
    path = paths.steps(row.tolist())
    for _ in range(min(int(rng.geometric(0.7)), 4)):
        path = edited(paths, path, rng)
    return np.array(paths.spell(path))


def crossed(
    paths: LayerPaths, first: Path, second: Path, rng: np.random.Generator
) -> tuple[Path, Path]:
    """Both with a run of the other, from the same part of the depth; parents where that breaks a limit."""
    start, stop = np.sort(rng.random(2)).tolist()
    runs = [(round(start * len(path)), round(stop * len(path))) for path in (first, second)]
    (a, b), (c, d) = runs
    one = (*first[:a], *second[c:d], *first[b:])
    two = (*second[:c], *first[a:b], *second[d:])
    return one if paths.is_spelled(one) else first, two if paths.is_spelled(two) else second


def edited(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """The path after one edit that keeps the limits; itself where chance finds none."""
    kinds: list[Callable[..., Path]] = [_inserted, _left_out, _repeated, _exchanged, _moved, _redrawn]
    if paths.form == "indicator":
        kinds += [_flipped, _flipped]
    if paths.scale is not None:
        kinds += [_scaled, _scaled]
    for _ in range(_TRIES):
        found = kinds[rng.integers(len(kinds))](paths, path, rng)
        if found != path and paths.is_spelled(found):
            return found
    return path


def _inserted(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """One more step: any, or half of the time the layer that follows the one before, of some source."""
    place = int(rng.integers(len(path) + 1))
    choice = int(rng.integers(len(paths.choices)))
    if place and rng.random() < 0.5:
        layer = paths.choices[path[place - 1][0]][1]
        nexts = [n for n, (_, other) in enumerate(paths.choices) if other == layer + 1]
        choice = nexts[rng.integers(len(nexts))] if nexts else choice
    return (*path[:place], (choice, 1.0), *path[place:])


def _left_out(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    start, stop = _run(path, rng)
    return (*path[:start], *path[stop:])


def _repeated(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """A run twice, one after the other."""
    start, stop = _run(path, rng)
    return (*path[:stop], *path[start:stop], *path[stop:])


def _exchanged(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """A run taken from another source, at the same layers."""
    start, stop = _run(path, rng)
    source = paths.sources[rng.integers(len(paths.sources))]
    numbers = {choice: number for number, choice in enumerate(paths.choices)}
    run = [(numbers[source, paths.choices[choice][1]], scale) for choice, scale in path[start:stop]]
    return (*path[:start], *run, *path[stop:])


def _moved(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """A step put next to its neighbour's other side."""
    if len(path) < 2:
        return path
    place = int(rng.integers(len(path) - 1))
    return (*path[:place], path[place + 1], path[place], *path[place + 2 :])


def _redrawn(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    place = int(rng.integers(len(path)))
    choice = int(rng.integers(len(paths.choices)))
    return (*path[:place], (choice, path[place][1]), *path[place + 1 :])


def _flipped(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """A slot of the indicator form turned on or off."""
    row = list(paths.spell(path))
    slot = int(rng.integers(paths.slots))
    row[slot] = 1.0 - row[slot]
    return paths.steps(row)


def _scaled(paths: LayerPaths, path: Path, rng: np.random.Generator) -> Path:
    """One scale some steps of its grid up or down."""
    assert paths.scale is not None
    low, high, width = paths.scale
    place = int(rng.integers(len(path)))
    choice, scale = path[place]
    steps = max(1, round(abs(float(rng.normal(0.0, 0.15 * (high - low)))) / width))
    value = scale + steps * width * (1 if rng.random() < 0.5 else -1)
    value = round(low + round((min(max(value, low), high) - low) / width) * width, 12)
    return (*path[:place], (choice, value), *path[place + 1 :])


def _run(path: Sequence[Step], rng: np.random.Generator) -> tuple[int, int]:
    """Bounds of a short run of steps."""
    length = min(int(rng.geometric(0.6)), len(path))
    start = int(rng.integers(len(path) - length + 1))
    return start, start + length


def _range(count: int, rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(1, max(count, 2)))
    start = int(rng.integers(0, count - length + 1))
    return start, start + length
