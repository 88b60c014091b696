"""Weight matching: the permutations of a model's units under which its weights are nearest to another's.

Ainsworth et al. (2023), "Git Re-Basin", arXiv:2209.04836, by coordinate descent over linear assignments,
with the exact symmetries of a decoder. Heads are assigned on two levels, as in MuDSC (Xu et al. 2024,
arXiv:2403.01753): query heads within each pair of groups first, then groups. As there, what units do on a
text may count beside their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from evomerge.merge.align.activations import Activations
from evomerge.merge.align.symmetries import RESIDUAL, Permutations, Symmetries
from evomerge.merge.threads import torch_threads

Read = Callable[[str], torch.Tensor]
"""A tensor of a model by its name."""

MOST_SWEEPS = 50


@dataclass(frozen=True)
class Seen:
    """What units of both models did on one text, and how much it counts.

    Attributes:
        anchor, model: what the units of each did.
        mix: share of the weights, MuDSC's rho: 1 for weights alone, 0 for activations alone.
    """

    anchor: Activations
    model: Activations
    mix: float


@torch.no_grad()
def match_weights(
    symmetries: Symmetries,
    anchor: Read,
    model: Read,
    *,
    residual: bool = True,
    seed: int = 0,
    seen: Seen | None = None,
) -> dict[str, np.ndarray]:
    """Orders of the model's units in which its weights are nearest to the anchor's.

    Nearest is a `sum <anchor, permuted model>` over all tensors that no change of one kind of unit adds to.
    With `seen` it is `mix` times that sum, and `1 - mix` times the units' correlations, those of a kind of
    unit worth as much as its weights at most: both norms multiplied. Units are visited in an order drawn anew
    for each sweep. float32 on one thread.

    Args:
        symmetries: of both.
        anchor: whose order is taken.
        model: that is put in order.
        residual: whether the residual stream is permuted too. Models of one ancestor share its order.
        seed: of the order of visits.
        seen: what the units did on a text; None for weights alone.
    """
    rng = np.random.default_rng(seed)
    found = {name: np.arange(count) for name, count in symmetries.counts.items()}
    visits = [f"{kind}.{layer}" for layer in symmetries.layers for kind in ("mlp", "heads")]
    visits += [RESIDUAL] if residual else []
    with torch_threads(1):
        for _ in range(MOST_SWEEPS):
            changed = False
            for index in rng.permutation(len(visits)):
                name = visits[index]
                if name.startswith("heads."):
                    new = _heads(symmetries, anchor, model, found, int(name.split(".")[1]), seen)
                else:
                    products = _products(symmetries, anchor, model, found, name, seen)
                    new = {name: _assigned(products)[0]}
                for each, order in new.items():
                    changed = changed or not np.array_equal(found[each], order)
                    found[each] = order
            if not changed:
                break
    return found


def _products(
    symmetries: Symmetries,
    anchor: Read,
    model: Read,
    found: Permutations,
    name: str,
    seen: Seen | None,
) -> np.ndarray:
    """Inner product of every unit of the anchor with every one of the model, all else permuted: [n, n]."""
    count = symmetries.counts[name]
    total = torch.zeros(count, count)
    sizes = [0.0, 0.0]
    for tensor, axes in symmetries.axes.items():
        if name not in axes:
            continue
        axis = axes.index(name)
        ours = anchor(tensor).float().transpose(0, axis).reshape(count, -1)
        other = symmetries.apply(tensor, model(tensor).float(), found, besides=name)
        theirs = other.transpose(0, axis).reshape(count, -1)
        total += ours @ theirs.T
        sizes[0] += float(ours.square().sum())
        sizes[1] += float(theirs.square().sum())
    if seen is not None:
        # Norms are those of any order, so that all kinds of units add to one sum.
        worth = (sizes[0] * sizes[1]) ** 0.5 / count
        alike = seen.anchor[name] @ seen.model[name].T
        total = seen.mix * total + (1.0 - seen.mix) * worth * alike
    return total.double().numpy()


def _assigned(products: np.ndarray) -> tuple[np.ndarray, float]:
    """The order of columns with the largest trace, and that; the order that is there where it is as good."""
    rows, columns = linear_sum_assignment(products, maximize=True)
    best, now = float(products[rows, columns].sum()), float(np.trace(products))
    if best <= now + 1e-9 * max(1.0, abs(now)):
        return np.arange(len(products)), now
    return np.asarray(columns, dtype=np.int64), best


def _heads(
    symmetries: Symmetries,
    anchor: Read,
    model: Read,
    found: Permutations,
    layer: int,
    seen: Seen | None,
) -> dict[str, np.ndarray]:
    """Order of the groups of a layer and of its query heads: groups whose best inner assignment is best."""
    name, outer = f"heads.{layer}", f"groups.{layer}"
    plain = {k: v for k, v in found.items() if k not in (name, outer)}
    queries = _products(symmetries, anchor, model, plain, name, seen)
    values = _products(symmetries, anchor, model, plain, outer, seen)
    count = symmetries.counts[outer]
    size = symmetries.counts[name] // count
    inner: dict[tuple[int, int], np.ndarray] = {}
    for ours in range(count):
        for other in range(count):
            block = queries[ours * size : (ours + 1) * size, other * size : (other + 1) * size]
            inner[ours, other], best = _assigned(block)
            values[ours, other] += best
    groups, _ = _assigned(values)
    heads = [other * size + inner[ours, other] for ours, other in enumerate(groups.tolist())]
    return {name: np.concatenate(heads), outer: groups}
