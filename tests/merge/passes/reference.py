"""Slow references in float64 NumPy, written from the papers' equations, for tests of the kernels."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from tests.merge.passes import whole_reference


def numbers(seed: int, expert: str, tensor: str, size: int) -> np.ndarray:
    """The counter-based numbers in [0, 1), bit by bit as their documentation says: float64 [size]."""
    digest = hashlib.blake2b(f"{seed}\0{expert}\0{tensor}".encode(), digest_size=8).digest()
    low, high = np.frombuffer(digest, dtype="<u4")
    x = np.arange(size, dtype=np.uint32) ^ low
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) + high
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return (x >> np.uint32(1)) / 2.0**31


def mask(seed: int, expert: str, tensor: str, probability: float, size: int) -> np.ndarray:
    """What a probability keeps: bool [size]."""
    return numbers(seed, expert, tensor, size) < round(probability * 2**31) / 2.0**31


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """Entries of at least the k-th largest magnitude, k = max(1, floor(density * n))."""
    k = max(1, math.floor(round(density * delta.size, 9)))
    threshold = np.sort(np.abs(delta), axis=None)[::-1][k - 1]
    return np.where(np.abs(delta) >= threshold, delta, 0.0)


def task_arithmetic(base, experts, weights):
    return base + sum(w * (x - base) for w, x in zip(weights, experts, strict=True))


def linear(experts, weights):
    return sum(w * x for w, x in zip(weights, experts, strict=True)) / sum(weights)


def slerp(a, b, t, lerp_above=0.9995):
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    if abs(cosine) > lerp_above:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def band(delta, density, gamma):
    """Breadcrumbs: without the gamma largest, then the density largest of what is left, ties kept."""
    k = max(1, math.floor(round(density * delta.size, 9)))
    top = min(math.floor(round(gamma * delta.size, 9)), delta.size - k)
    falling = np.sort(np.abs(delta), axis=None)[::-1]
    size = np.abs(delta)
    return np.where((size <= falling[top]) & (size >= falling[top + k - 1]), delta, 0.0)


def keep_probabilities(delta, density, epsilon):
    """DELLA: by the rank of the magnitude in its row of the last axis, smallest first."""
    rows = np.abs(delta).reshape(-1, delta.shape[-1])
    ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
    share = ranks / (rows.shape[1] - 1)
    return (density - epsilon + 2 * epsilon * share).reshape(delta.shape)


def by_row(method, options, vectors, origin, get):
    """The same methods for each row (last axis) or column (along the first axis) by itself."""
    if options["along"] == "columns":
        flat = [v.reshape(len(v), -1).T for v in vectors]
    else:
        flat = [v.reshape(-1, v.shape[-1]) for v in vectors]
    merged = []
    for rows in zip(*flat, strict=True):
        if method == "model_stock":
            merged.append(get("lambda", "*") * model_stock(list(rows)))
        else:
            merged.append(slerp(*rows, get("t", "*"), 1 - 1e-12))
    merged = np.stack(merged)
    merged = merged.T if options["along"] == "columns" else merged
    return origin + merged.reshape(vectors[0].shape)


def unit(x):
    return x / np.linalg.norm(x)


def angle(a, b):
    return np.arccos(np.clip((unit(a) * unit(b)).sum(), -1, 1))


def karcher(vectors, weights):
    """The point where the weighted logarithms of all directions add to zero, times the mean norm."""
    shares = np.array(weights) / sum(weights)
    mean = unit(sum(w * unit(v) for w, v in zip(shares, vectors, strict=True)))
    for _ in range(200):
        step = 0.0
        for w, v in zip(shares, vectors, strict=True):
            across = unit(v) - (unit(v) * mean).sum() * mean
            length = np.linalg.norm(across)
            step = step + (w * angle(v, mean) / length * across if length > 1e-12 else 0.0)
        length = np.linalg.norm(step)
        if length < 1e-14:
            break
        mean = unit(np.cos(length) * mean + np.sin(length) / length * step)
    return sum(w * np.linalg.norm(v) for w, v in zip(shares, vectors, strict=True)) * mean


def multislerp(vectors, weights, normalise=True):
    """Barycentric interpolation with its step in the tangent plane, as published."""
    shares = np.array(weights) / (sum(weights) if normalise else 1.0)
    mean = unit(sum(w * unit(v) for w, v in zip(shares, vectors, strict=True)))
    flat = [unit(v) - (unit(v) * mean).sum() * mean for v in vectors]
    step = sum(w * v for w, v in zip(shares, flat, strict=True))
    length = np.linalg.norm(step) + 1e-30
    point = np.cos(length) * mean + np.sin(length) / length * step
    return sum(w * np.linalg.norm(v) for w, v in zip(shares, vectors, strict=True)) * point


def model_stock(vectors):
    count = len(vectors)
    pairs = [np.cos(angle(a, b)) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
    cosine = np.mean(pairs)
    return count * cosine / (1 + (count - 1) * cosine) * np.mean(vectors, axis=0)


def sce(vectors, density):
    """Select by variance, calculate by energy, erase by sign (Wan et al. 2024)."""
    stack = np.stack(vectors)
    if density < 1:
        spread = stack.var(axis=0)
        varying = np.sort(spread[spread > 0], axis=None)[::-1]
        least = varying[max(1, math.floor(round(density * varying.size, 9))) - 1]
        stack = stack * (spread >= least)
    energy = (stack**2).reshape(len(stack), -1).sum(1)
    return vote(list(stack), energy / energy.sum(), "before", "weight")


def nearswap(base, expert, t):
    """A linear interpolation towards the expert, as far as `t` of the way's length, as mergekit says it."""
    way = np.clip(t / np.maximum(np.abs(expert - base), 1e-6), 0.0, 1.0)
    return (1.0 - way) * base + way * expert


def arcee_fusion(base, expert, iqr):
    """The changes whose magnitude times the divergence of their row exceeds a robust threshold."""

    def shares(x):
        x = np.exp(x - x.max(-1, keepdims=True))
        return x / x.sum(-1, keepdims=True) + 1e-8

    divergence = (shares(expert) * np.log(shares(expert) / shares(base))).sum(-1, keepdims=True)
    importance = np.abs(expert - base) * divergence
    rising = np.sort(importance, axis=None)
    first, middle, third = (rising[math.floor(q * (rising.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.where(importance >= middle + iqr * (third - first), expert, base)


def vote(kept, weights, election, divisor):
    """TIES' election and mean, in every variant."""
    stack = np.stack(kept)
    shaped = np.array(weights, dtype=np.float64).reshape(-1, *[1] * (stack.ndim - 1))
    weighted = stack * shaped
    voters = weighted if election == "after" else stack
    agree = np.sign(voters) == np.where(voters.sum(0) >= 0, 1.0, -1.0)
    total = (weighted * agree).sum(0)
    if divisor == "none":
        return total
    count = (agree * (shaped if divisor == "weight" else 1.0)).sum(0)
    return total / np.where(np.abs(count) < 1e-8, 1.0, count)


def survivors(method, options, delta, density, gamma, epsilon, drawn, model_threshold):
    """A task vector after the method's sparsification and rescaling."""
    if density == 1:
        return delta
    inverse = 1.0
    if method == "ties":
        if model_threshold is not None:
            kept = np.where(np.abs(delta) >= model_threshold, delta, 0.0)
        else:
            kept = trim(delta, density)
    elif method.startswith("breadcrumbs"):
        kept = band(delta, density, gamma)
    else:
        chance = density * np.ones(delta.shape)
        if method.startswith("della"):
            chance = keep_probabilities(delta, density, epsilon)
        kept, inverse = np.where(drawn.reshape(delta.shape) < chance, delta, 0.0), 1 / chance
    if options.get("rescale") == "inverse":
        return kept * inverse
    if options.get("rescale") == "l1":
        return kept * (np.abs(delta).sum() / np.abs(kept).sum())
    return kept


def merge(method, options, base, experts, names, get, seed, tensor, model_thresholds=None):
    """Any method, in float64, from its formula.

    Args:
        method: name; `options` all of its options.
        base, experts: float64 arrays of one tensor.
        names: of the experts.
        get: (coefficient, expert or `*`) to value.
    """
    deltas = [x - base for x in experts]
    vectors = deltas if options.get("around", "base") == "base" else experts
    origin = base if options.get("around", "base") == "base" else 0.0
    yes = options.get("normalise", "yes") == "yes"
    if options.get("along", "tensor") != "tensor":
        return by_row(method, options, vectors, origin, get)
    if method in ("slerp", "nuslerp"):
        vectors, origin = (experts, 0.0) if method == "slerp" else (vectors, origin)
        return origin + slerp(*vectors, get("t", "*"), 0.9995 if method == "slerp" else 1 - 1e-12)
    if method == "model_stock":
        return base + get("lambda", "*") * model_stock(deltas)
    if method == "sce":
        return base + sce(deltas, get("density", "*"))
    if method in whole_reference.FUNCTIONS:
        return base + get("lambda", "*") * whole_reference.merge(method, deltas, names, get)
    if method == "nearswap":
        return nearswap(base, experts[0], get("t", "*"))
    if method == "arcee_fusion":
        return arcee_fusion(base, experts[0], get("iqr", "*"))
    weights = [get("weight", name) for name in names]
    if method == "linear":
        return (
            linear(experts, weights)
            if yes
            else sum(w * x for w, x in zip(weights, experts, strict=True))
        )
    if method == "karcher":
        return origin + karcher(vectors, weights)
    if method == "multislerp":
        return origin + multislerp(vectors, weights, yes)
    kept = deltas
    if method != "task_arithmetic":
        kept = [
            survivors(
                method, options, delta, get("density", name),
                get("gamma", name), get("epsilon", name),
                numbers(seed, name, tensor, delta.size),
                model_thresholds[name] if model_thresholds else None,
            )
            for name, delta in zip(names, deltas, strict=True)
        ]  # fmt: skip
    if "election" in options:
        total = vote(kept, weights, options["election"], options["divisor"])
    else:
        total = sum(w * x for w, x in zip(weights, kept, strict=True))
        if options["divisor"] == "weight":
            total = total / sum(weights)
    return base + get("lambda", "*") * total
