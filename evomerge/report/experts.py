"""What is recorded of the experts' task vectors, and which layers moved which objective in this search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from evomerge.ledger.candidate import Candidate
from evomerge.ledger.history import History
from evomerge.objectives.objective import Objective
from evomerge.report.coefficients import modules_of
from evomerge.search_space import SearchSpace

RESAMPLES = 200
FOLDS = 5
LEAST = 20
"""Fewest scored candidates from which the influence of layers is read."""

PENALTIES = 10.0 ** np.arange(-3, 5)


def task_vectors_json(history: History) -> dict[str, Any] | None:
    """Norms and cosines of task vectors by layer, from the inner products that `prepare` recorded.

    Returns:
        `experts`; `layers`; `norms` [experts][layers]; `pairs` of experts; `cosines` [pairs][layers], None
        where
        one does not move; `overall` [experts][experts]; `kinship`, the mean cosine over pairs (model
        kinship, Hu et
        al. 2024). None where nothing is recorded.
    """
    prepared = history.prepared
    if prepared is None or prepared.task_vectors is None or not prepared.task_vectors.experts:
        return None
    experts, gram = list(prepared.task_vectors.experts), prepared.task_vectors.gram
    places = [place for place in prepared.layout.places if place in gram]
    grams: dict[str, np.ndarray] = {}
    for layer, modules in modules_of(places).items():
        own = [f"{layer}.{module}" if module else layer for module in modules]
        grams[layer] = np.sum([np.array(gram[place]) for place in own], axis=0)
    whole = np.array(gram[""]) if "" in gram else np.sum(list(grams.values()), axis=0)
    pairs = list(itertools.combinations(range(len(experts)), 2))
    cosines = [[_cosine(own, i, j) for own in grams.values()] for i, j in pairs]
    overall = [[_cosine(whole, i, j) for j in range(len(experts))] for i in range(len(experts))]
    known = [c for i, j in pairs if (c := overall[i][j]) is not None]
    return {
        "experts": experts,
        "layers": list(grams),
        "norms": [
            [_short(np.sqrt(max(0.0, own[i, i]))) for own in grams.values()]
            for i in range(len(experts))
        ],
        "pairs": [f"{experts[i]} · {experts[j]}" for i, j in pairs],
        "cosines": cosines,
        "overall": overall,
        "kinship": _short(float(np.mean(known))) if known else None,
    }


def _cosine(gram: np.ndarray, i: int, j: int) -> float | None:
    length = np.sqrt(gram[i, i] * gram[j, j])
    return _short(gram[i, j] / length) if length > 0 else None


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def influence_json(
    history: History, space: SearchSpace, objectives: Sequence[Objective]
) -> dict[str, Any] | None:
    """How search scores went with the mean coefficient of each expert in each layer, by ridge regression.

    Standardised on both sides, the penalty by cross-validation, intervals by resampling candidates. A
    search does not
    vary its coefficients evenly, so this describes the search and is no experiment.

    Returns:
        `rows` (`COEFFICIENT EXPERT`), `layers`; by metric `effect`, `low`, `high` [rows][layers] in
        standard deviations
        of the score for one of the coefficient, None where nothing varied, and `explained`, the share of
        the variance
        of candidates left out that the fit explains. None where there are too few candidates.
    """
    scored = [c for c in history.searched() if c.genome is not None]
    if len(scored) < LEAST or not space.genes:
        return None
    features, rows, layers = _layer_means(space, np.array([c.genome for c in scored]))
    if not rows:
        return None
    flat = features.reshape(len(scored), -1)
    varies = flat.std(axis=0) > 1e-9
    columns = _standardised(flat[:, varies])
    rng = np.random.default_rng(history.stated.seed)
    draws = rng.integers(0, len(scored), (RESAMPLES, len(scored)))
    shape = (len(rows), len(layers))
    found: dict[str, Any] = {"rows": rows, "layers": layers, "candidates": len(scored), "metrics": {}}
    # On one thread: many small systems, whose last bits must not depend on the number of cores.
    with threadpool_limits(1):
        for objective in objectives:
            own = _influence_on(objective, scored, columns, draws, varies, shape)
            if own is not None:
                found["metrics"][objective.metric] = own
    return found if found["metrics"] else None


def _influence_on(
    objective: Objective,
    scored: Sequence[Candidate],
    columns: np.ndarray,
    draws: np.ndarray,
    varies: np.ndarray,
    shape: tuple[int, int],
) -> dict[str, Any] | None:
    score = np.array([c.evaluations["search"].metrics[objective.metric].value for c in scored])
    if not varies.any() or score.std() < 1e-12:
        return None
    target = _standardised(score[:, None])[:, 0]
    penalty, explained = _penalty(columns, target)
    effect = _ridge(columns, target, penalty)
    again = np.array([_ridge(columns[draw], target[draw], penalty) for draw in draws])
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    named = (("effect", effect), ("low", low), ("high", high))
    found: dict[str, Any] = {name: _filled(values, varies, shape) for name, values in named}
    return found | {"explained": round(explained, 3)}


def _layer_means(space: SearchSpace, genomes: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """Mean value of each coefficient of each input in each layer: float64 [candidates, rows, layers]."""
    layers = list(modules_of(space.layout.places))
    layer_of = {
        place: number
        for number, (layer, modules) in enumerate(modules_of(space.layout.places).items())
        for place in ([f"{layer}.{module}" if module else layer for module in modules])
    }
    rows = list(dict.fromkeys((gene.coefficient, gene.input) for gene in space.genes))
    total = np.zeros((len(genomes), len(rows), len(layers)))
    count = np.zeros((len(rows), len(layers)))
    known: dict[str, set[tuple[int, int]]] = {}
    for number, gene in enumerate(space.genes):
        row = rows.index((gene.coefficient, gene.input))
        for place, part in zip(gene.places, gene.basis or (1.0,) * len(gene.places), strict=True):
            layer = layer_of.get(place)
            if layer is None:
                layer = layer_of[place.rpartition(".")[0]]
            total[:, row, layer] += part * genomes[:, number]
            # A curve has several genes at a place, each with a part of its value.
            if (row, layer) not in known.setdefault(place, set()):
                known[place].add((row, layer))
                count[row, layer] += 1
    names = [coefficient if of == "*" else f"{coefficient} {of}" for coefficient, of in rows]
    return total / np.maximum(count, 1), names, layers


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _ridge(columns: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    centred = columns - columns.mean(axis=0)
    lhs = centred.T @ centred + penalty * np.eye(columns.shape[1])
    return np.asarray(np.linalg.solve(lhs, centred.T @ (target - target.mean())))


def _penalty(columns: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """The penalty that predicts candidates left out best, and the share of their variance it explains."""
    folds = np.arange(len(target)) % FOLDS
    errors = []
    for penalty in PENALTIES:
        squares = 0.0
        for fold in range(FOLDS):
            kept = folds != fold
            effect = _ridge(columns[kept], target[kept], penalty)
            centre = columns[kept].mean(axis=0)
            guess = target[kept].mean() + (columns[~kept] - centre) @ effect
            squares += float(np.sum((target[~kept] - guess) ** 2))
        errors.append(squares)
    best = int(np.argmin(errors))
    return float(PENALTIES[best]), 1.0 - errors[best] / float(np.sum((target - target.mean()) ** 2))


def _filled(values: np.ndarray, varies: np.ndarray, shape: tuple[int, int]) -> list[list[float | None]]:
    whole: list[float | None] = [None] * varies.size
    for place, value in zip(np.flatnonzero(varies), values, strict=True):
        whole[place] = _short(float(value))
    return [whole[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]
