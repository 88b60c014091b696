"""A mixture of experts as data: whose MLPs are experts of which layers, and how its routers are made.

The mixture stands on a dense merge: all that is no MLP of its layers is the merge's. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Gate = Literal["hidden", "cheap_embed", "random", "arrow"]
Sides = Literal["both", "prompts"]

GATES: tuple[Gate, ...] = ("hidden", "cheap_embed", "random", "arrow")
SIDES: tuple[Sides, ...] = ("both", "prompts")


@dataclass(frozen=True)
class Prompts:
    """Texts that an expert is for, and texts that it is not for."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()

    def to_json(self) -> dict[str, list[str]]:
        """As plain JSON data."""
        own = {"positive": list(self.positive), "negative": list(self.negative)}
        return {name: texts for name, texts in own.items() if texts}


@dataclass(frozen=True)
class Mixture:
    """Which layers are up-cycled, of what, and how their routers are made.

    Attributes:
        experts: sources whose MLPs are the experts, two at least.
        layers: numbers of the layers, ascending, one at least; the others stay dense.
        per_token: experts that a token meets.
        gate: how rows of routers are made (`merge.mixture`).
        temperature: divides what the routers say.
        sides: of `arrow`, whether each expert is written twice or stands on the side of its prompts.
        rank: of what an expert learned of a matrix, so many singular triplets are kept; None for all.
        seed: of `random` rows.
        prompts: by expert, where rows are made of them.
    """

    experts: tuple[str, ...]
    layers: tuple[int, ...]
    per_token: int
    gate: Gate = "arrow"
    temperature: float = 1.0
    sides: Sides = "both"
    rank: int | None = None
    seed: int = 0
    prompts: Mapping[str, Prompts] = field(default_factory=dict)

    @property
    def is_doubled(self) -> bool:
        """Whether every expert is written twice."""
        return self.gate == "arrow" and self.sides == "both"

    @property
    def is_prompted(self) -> bool:
        """Whether rows of routers are made of prompts."""
        return is_prompted(self.gate, self.sides)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        data: dict[str, Any] = {
            "experts": list(self.experts),
            "layers": list(self.layers),
            "per_token": self.per_token,
            "gate": self.gate,
            "temperature": self.temperature,
        }
        if self.gate == "arrow":
            data["sides"] = self.sides
        if self.rank is not None:
            data["rank"] = self.rank
        if self.gate == "random":
            data["seed"] = self.seed
        if self.prompts:
            data["prompts"] = {name: texts.to_json() for name, texts in self.prompts.items()}
        return data


def is_prompted(gate: str, sides: str) -> bool:
    """Whether rows of routers are made of prompts."""
    return gate in ("hidden", "cheap_embed") or (gate == "arrow" and sides == "prompts")


Fault = Callable[..., None]
"""Notes a fault: where, what must hold, what was found, what to do."""


def mixture_from_json(data: Any, checkpoints: Collection[str], fault: Fault) -> Mixture | None:
    """Read a mixture from JSON data as `Mixture.to_json` writes it.

    Args:
        data: as parsed.
        checkpoints: names of the recipe's checkpoint sources.
        fault: is told every fault, with its field.

    Returns:
        The mixture, or None where there was a fault.
    """
    if not isinstance(data, dict):
        fault("mixture", "must be an object", data)
        return None
    found: list[str] = []

    def wrong(name: str, text: str, value: object = "") -> None:
        found.append(name)
        fault(f"mixture.{name}", text, value)

    known = (
        "experts",
        "layers",
        "per_token",
        "gate",
        "temperature",
        "sides",
        "rank",
        "seed",
        "prompts",
    )
    for key in sorted(set(data) - set(known)):
        wrong(key, f"unknown field; known: {', '.join(known)}")
    experts, layers = data.get("experts"), data.get("layers")
    if not isinstance(experts, list) or len(experts) < 2 or len(set(map(str, experts))) != len(experts):
        wrong("experts", "must be a list of two sources or more, each once", experts)
        experts = []
    for name in experts:
        if not isinstance(name, str) or name not in checkpoints:
            wrong("experts", "names no checkpoint source", name)
    whole = isinstance(layers, list) and layers and all(type(n) is int and n >= 0 for n in layers)
    if not whole or layers != sorted(set(layers or [])):
        wrong("layers", "must be ascending numbers of layers, one at least", layers)
    per_token, rank, seed = data.get("per_token"), data.get("rank"), data.get("seed", 0)
    if type(per_token) is not int or not 1 <= per_token <= max(1, len(experts)):
        wrong("per_token", "must be from 1 to the number of experts", per_token)
    if rank is not None and (type(rank) is not int or rank < 1):
        wrong("rank", "must be a whole number from 1", rank)
    if type(seed) is not int:
        wrong("seed", "must be a whole number", seed)
    gate, sides = data.get("gate", "arrow"), data.get("sides", "both")
    if gate not in GATES:
        wrong("gate", f"must be one of {', '.join(GATES)}", gate)
    if sides not in SIDES:
        wrong("sides", f"must be one of {', '.join(SIDES)}", sides)
    heat = data.get("temperature", 1.0)
    number = isinstance(heat, int | float) and not isinstance(heat, bool)
    if not number or not math.isfinite(heat) or heat <= 0.0:
        wrong("temperature", "must be a number above 0", heat)
    prompts = _prompts(data.get("prompts", {}), wrong)
    if is_prompted(gate, sides):
        for name in experts:
            if name not in prompts:
                wrong("prompts", f"gate {gate} needs positive prompts of every expert", name)
    if found:
        return None
    assert isinstance(layers, list)
    assert isinstance(per_token, int)
    return Mixture(
        tuple(experts), tuple(layers), per_token, gate, float(heat), sides, rank, seed, prompts
    )


def _prompts(data: Any, wrong: Callable[..., None]) -> dict[str, Prompts]:
    if not isinstance(data, dict):
        wrong("prompts", "must map an expert to its prompts", data)
        return {}
    found: dict[str, Prompts] = {}
    for name, entry in data.items():
        texts = entry if isinstance(entry, dict) and set(entry) <= {"positive", "negative"} else {}
        lists = [texts.get("positive"), texts.get("negative", [])]
        plain = all(isinstance(own, list) and all(isinstance(t, str) for t in own) for own in lists)
        if not plain or not lists[0]:
            wrong("prompts", "must be an object of lists of texts, `positive` and `negative`", entry)
            continue
        positive, negative = lists
        found[name] = Prompts(tuple(positive), tuple(negative or ()))
    return found
