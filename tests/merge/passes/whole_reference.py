"""Slow references in float64 NumPy of the methods that make whole tensors, from the papers' equations."""

from __future__ import annotations

import math

import numpy as np


def average(deltas, weights):
    return sum(w * d for w, d in zip(weights, deltas, strict=True)) / len(deltas)


def polar(matrix):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def tsv_m(deltas, weights):
    """Low-rank approximation of each task, then Procrustes on the concatenated singular vectors."""
    if deltas[0].ndim < 2:
        return average(deltas, weights)
    rows, columns = deltas[0].shape
    kept = min(rows, columns) // len(deltas)
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    left = polar(np.hstack([u[:, :kept] for u, _, _ in parts]))
    right = polar(np.vstack([v[:kept] for _, _, v in parts]))
    values = np.concatenate([w * s[:kept] for w, (_, s, _) in zip(weights, parts, strict=True)])
    return left @ np.diag(values) @ right


def iso_c(deltas, weights):
    if deltas[0].ndim < 2:
        return average(deltas, weights)
    left, values, right = np.linalg.svd(average(deltas, weights) * len(deltas), full_matrices=False)
    return values.mean() * left @ right


def iso_cts(deltas, weights, common):
    if deltas[0].ndim < 2:
        return average(deltas, weights)
    count, full = len(deltas), min(deltas[0].shape)
    shared = full - round((full - int(full * common)) / count) * count
    scaled = [w * d for w, d in zip(weights, deltas, strict=True)]
    left, values, right = np.linalg.svd(sum(scaled), full_matrices=False)
    lefts, all_values, rights = [left[:, :shared]], [values[:shared]], [right[:shared]]
    own = (full - shared) // count
    projector = np.eye(len(left)) - lefts[0] @ lefts[0].T
    for delta in scaled:
        left, values, right = np.linalg.svd(projector @ delta, full_matrices=False)
        lefts.append(left[:, :own])
        all_values.append(values[:own])
        rights.append(right[:own])
    return np.concatenate(all_values).mean() * polar(np.hstack(lefts)) @ polar(np.vstack(rights))


def ties(deltas, weights, density):
    trimmed = []
    for delta in deltas:
        least = np.sort(np.abs(delta), axis=None)[::-1][
            max(1, math.floor(round(density * delta.size, 9))) - 1
        ]
        trimmed.append(np.where(np.abs(delta) >= least, delta, 0.0))
    elected = np.where(sum(trimmed) >= 0, 1.0, -1.0)
    agree = [np.sign(d) == elected for d in trimmed]
    return sum(w * d * a for w, d, a in zip(weights, trimmed, agree, strict=True)) / np.maximum(
        sum(agree, 0), 1
    )


def knots(deltas, weights, density):
    if deltas[0].ndim < 2:
        return ties(deltas, weights, density)
    left, values, right = np.linalg.svd(np.hstack(deltas), full_matrices=False)
    return left @ np.diag(values) @ ties(np.split(right, len(deltas), axis=1), weights, density)


def star(deltas, weights, eta):
    if deltas[0].ndim < 2:
        return average(deltas, weights)
    kept = []
    for delta in deltas:
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        count = next(r for r in range(1, len(values) + 1) if values[:r].sum() >= eta * values.sum())
        values = (
            np.where(np.arange(len(values)) < count, values, 0.0) * values.sum() / values[:count].sum()
        )
        kept.append(left @ np.diag(values) @ right)
    return average(kept, weights)


def wudi(deltas, weights):
    """Where the gradient of `sum_t w_t |(M - d_t) d_t^T|^2 / |d_t|^2` vanishes."""
    if deltas[0].ndim < 2:
        return average(deltas, weights) * len(deltas) / sum(weights)
    grams = [w * d.T @ d / (d * d).sum() for w, d in zip(weights, deltas, strict=True)]
    wanted = sum(d @ g for d, g in zip(deltas, grams, strict=True))
    return np.linalg.lstsq(sum(grams), wanted.T, rcond=1e-10)[0].T


def consensus(deltas, weights, tall):
    total = sum(deltas)
    masks = sum((np.abs(d) > tall * np.abs(total - d)).astype(int) for d in deltas)
    return average(deltas, weights) * len(deltas) * (masks >= 2)


def pcb(deltas, weights, density):
    flat = np.stack([d.reshape(-1) for d in deltas])
    size = flat.shape[1]

    def scale(rows):
        least, most = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
        return (rows - least) / (most - least)

    rising = np.sort(np.abs(flat), axis=1)
    ends = rising[:, [int(size * 1e-4)]], rising[:, [int(size * (1 - 1e-4) - 1)]]
    sizes = np.clip(np.abs(flat), *ends)
    score = np.exp(len(flat) * scale(sizes) ** 2) * np.tanh(flat * flat.sum(0))
    kept = max(1, math.floor(round(density * size, 9)))
    score = scale(np.maximum(score, np.sort(score, axis=1)[:, [size - kept]]))
    factors = np.array(weights)[:, None]
    merged = (factors * np.sign(flat) * sizes * score).sum(0) / np.maximum(score.sum(0), 1e-12)
    return merged.reshape(deltas[0].shape)


def magmax(deltas, weights):
    stack = np.stack([w * d for w, d in zip(weights, deltas, strict=True)])
    return np.take_along_axis(stack, np.abs(stack).argmax(0)[None], 0)[0]


def tatr(deltas, weights, trust):
    sizes = [np.abs(d) for d in deltas]
    conflict = sum(s * t for i, s in enumerate(sizes) for j, t in enumerate(sizes) if i != j)
    kept = max(1, math.floor(round(trust * conflict.size, 9)))
    limit = np.sort(conflict, axis=None)[kept - 1] * (1 + 1e-6)
    return average(deltas, weights) * len(deltas) * (conflict <= limit)


def ram(deltas, r, alpha, epsilon):
    stack = np.stack(deltas)
    changed = np.abs(stack) > epsilon
    count = changed.sum(0)
    merged = np.zeros(deltas[0].shape)
    for delta, own in zip(stack, changed, strict=True):
        unique = (own & (count == 1)).sum()
        ratio = min((own & (count > 1)).sum() / max(unique, 1), alpha)
        merged += delta * own * np.where(count == 1, 1 + r * ratio, 1 / np.maximum(count, 1))
    return merged


FUNCTIONS = {
    f.__name__: f for f in (tsv_m, iso_c, iso_cts, knots, star, wudi, consensus, pcb, magmax, tatr, ram)
}


def merge(method, deltas, names, get):
    """The merged task vector; `get` as in `reference.merge`."""
    function = FUNCTIONS[method]
    taken = function.__code__.co_varnames[1 : function.__code__.co_argcount]
    numbers = [[get("weight", n) for n in names] if t == "weights" else get(t, "*") for t in taken]
    return function(deltas, *numbers)
