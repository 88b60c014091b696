"""Slow references in float64 NumPy, written from the papers' equations, for tests of the kernels."""

from __future__ import annotations

import hashlib
import math

import numpy as np


def mask(seed: int, expert: str, tensor: str, probability: float, size: int) -> np.ndarray:
    """The counter-based mask, bit by bit as its documentation says: bool [size]."""
    digest = hashlib.blake2b(f"{seed}\0{expert}\0{tensor}".encode(), digest_size=8).digest()
    low, high = np.frombuffer(digest, dtype="<u4")
    x = np.arange(size, dtype=np.uint32) ^ low
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) + high
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return (x >> np.uint32(1)) < round(probability * 2**31)


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """Entries of at least the k-th largest magnitude, k = max(1, floor(density * n))."""
    k = max(1, math.floor(round(density * delta.size, 9)))
    threshold = np.sort(np.abs(delta), axis=None)[::-1][k - 1]
    return np.where(np.abs(delta) >= threshold, delta, 0.0)


def task_arithmetic(base, experts, weights):
    return base + sum(w * (x - base) for w, x in zip(weights, experts, strict=True))


def linear(experts, weights):
    return sum(w * x for w, x in zip(weights, experts, strict=True)) / sum(weights)


def slerp(a, b, t):
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def elected(deltas, weights, mean):
    """Sign election on the (sparsified) deltas, then the weighted sum or mean of those that agree."""
    stack = np.stack(deltas)
    sign = np.where(stack.sum(0) >= 0, 1.0, -1.0)
    agree = np.sign(stack) == sign
    shaped = np.array(weights).reshape(-1, *[1] * (stack.ndim - 1))
    total = (stack * agree * shaped).sum(0)
    return total / np.maximum(agree.sum(0), 1) if mean else total


def ties(base, experts, weights, densities):
    kept = [trim(x - base, d) for x, d in zip(experts, densities, strict=True)]
    return base + elected(kept, weights, mean=True)


def dare_ties(base, experts, weights, densities, seed, names, tensor):
    kept = [
        np.where(mask(seed, n, tensor, d, x.size).reshape(x.shape), (x - base) / d, 0.0)
        if d < 1
        else x - base
        for x, d, n in zip(experts, densities, names, strict=True)
    ]
    return base + elected(kept, weights, mean=False)
