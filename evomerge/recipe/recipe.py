"""Recipe: one merge stated wholly, as data, with a canonical JSON form and a digest.

A recipe names *sources* (checkpoints, or virtual models that a method makes of them), the *path* of
output layers, each a layer of one source, and the source of every tensor outside the layers. An
ordinary merge is the identity path over one merged source; any other path is layer stacking.

Coefficients are addressed by places; see `places`.
Torch-free, so that drivers can decode genomes without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from evomerge.recipe.calibration import Calibration
from evomerge.recipe.mixture import Mixture
from evomerge.recipe.places import OUTER_PLACES, Table
from evomerge.recipe.rows import RowTable

ALLOWANCES = ("rope",)
"""In what a checkpoint may differ from the base where its source says so."""
DTYPES = ("bfloat16", "float16", "float32")
MERGED = "merged"
UNION = "union"
TEXT = "text"
"""The tower that decoders may be merged into."""
UNTIE, KEEP, EACH = "untie", "keep:", "each"
"""What a recipe may say of heads; `keep:` is followed by a source's name."""


@dataclass(frozen=True)
class CheckpointSource:
    """A model folder, or an adapter folder read against `base`.

    `digest` is the SHA-256 over the content of its weight files and stands for the checkpoint in the
    recipe's digest; `path` only says where the files lie today and is left out of the digest. `on` names
    the source that an adapter is read against; empty is the base of the merge it is part of. `allow` names in
    what it may differ from the base (`rope`); it changes no number and is left out of the digest too.
    """

    path: str
    digest: str = ""
    on: str = ""
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergedSource:
    """A virtual model: `method` applied to `inputs` (and `base`), tensor by tensor.

    `coefficients` maps a coefficient's name to an input's name (or `*` for one shared by all inputs)
    to a `Table`. `options` are the method's discrete settings; `seed` keys its random masks.

    Layer I of the virtual model is made of layer I of the base (without one, of the first input) and of
    layer `I + shifts[name]` of every other; inputs that are not in `shifts` give layer I.

    `function` is the SHA-256 of the source of a method that a person registered; empty for others.

    `rows` holds weights of single output rows, which go before those of `coefficients`. JSON has its digest.

    `calibration` is the text of methods that need statistics of the experts on inputs; None for others.
    """

    method: str
    inputs: tuple[str, ...]
    base: str | None = None
    coefficients: Mapping[str, Mapping[str, Table]] = field(default_factory=dict)
    options: Mapping[str, str | float | bool] = field(default_factory=dict)
    seed: int = 0
    shifts: Mapping[str, int] = field(default_factory=dict)
    function: str = ""
    rows: RowTable | None = None
    calibration: Calibration | None = None

    @property
    def reference(self) -> str:
        """The source whose layers have the virtual model's numbers."""
        return self.base if self.base is not None else self.inputs[0]


Source = CheckpointSource | MergedSource


@dataclass(frozen=True)
class TokenRow:
    """Where the row of a token comes from in every model that lacks it or, with `force`, in all of them.

    `source` names a checkpoint source, empty for a row of zeros; `token` is the text or the number of the
    token of that model whose row it is, None for the same token.
    """

    source: str = ""
    token: str | int | None = None
    force: bool = False

    def to_json(self) -> dict[str, Any]:
        """What is stated, as plain JSON data; a row of zeros has no source."""
        data = {"source": self.source or None, "token": self.token, "force": self.force or None}
        return {key: value for key, value in data.items() if value is not None}


@dataclass(frozen=True)
class LayerStep:
    """One output layer: layer `layer` of `source`; `scale` multiplies what it adds to the residual."""

    source: str
    layer: int
    scale: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """One wholly stated merge.

    Attributes:
        sources: name to source; merged sources may only name checkpoint sources.
        path: the output layers in order.
        outer: place outside the layers (`embed`, `final_norm`, `head`) to source name; a place of one tower
            (`vision.embed`) without an entry goes by its last word.
        dtype: storage dtype of the result; live weights are rounded to it too.
        config: keys that replace those of the base's `config.json`.
        tokenizer: name of the checkpoint source whose tokenizer and config files are exported.
        align: whether the vocabularies of the sources differ, and their embedding and head rows are brought
            into the order of `tokenizer`'s; `tokenizer` may then be `union`, the base's tokens and after
            them those that only others have.
        tokens: token to where its row comes from; one that the tokenizer lacks is added. Only with `align`.
        pad_to_multiple_of: with `align`, embedding and head have as many rows as there are tokens, rounded up
            to a multiple of it; 0 for as many as the models have.
        chat_template: a chat template that replaces the tokenizer's; empty keeps it.
        rope: name of the source whose rotary positions the result has; empty for those of `tokenizer`.
        heads: `untie`: a head that is the embedding (tied) becomes a tensor of its own, in every source;
            `keep:SOURCE`: every source has the head of that one; `each`: all have the base's, and the heads
            of the others stay beside the merge. Empty for heads that are merged as they are.
        towers: `text`, where decoders are merged into the text tower of the base; else empty.
        mixture: whose MLPs become the experts of a mixture on top of the merge; None for a dense model.
        ensemble: checkpoint sources that answer in place of the merge, by the mean of their logits; they can
            be scored, and not exported.
    """

    sources: Mapping[str, Source]
    path: tuple[LayerStep, ...]
    outer: Mapping[str, str]
    dtype: str = "bfloat16"
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "base"
    align: bool = False
    chat_template: str = ""
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int = 0
    rope: str = ""
    heads: str = ""
    towers: str = ""
    mixture: Mixture | None = None
    ensemble: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON data, paths included."""
        data: dict[str, Any] = {
            "schema": 1,
            "sources": {name: _source_to_json(source) for name, source in self.sources.items()},
            "path": [[step.source, step.layer, step.scale] for step in self.path],
            "outer": dict(self.outer),
            "dtype": self.dtype,
            "config": dict(self.config),
            "tokenizer": {"source": self.tokenizer} if self.align else self.tokenizer,
        }
        if self.tokens:
            data["tokenizer"]["tokens"] = {token: row.to_json() for token, row in self.tokens.items()}
        if self.pad_to_multiple_of:
            data["tokenizer"]["pad_to_multiple_of"] = self.pad_to_multiple_of
        if self.rope:
            data["rope"] = self.rope
        if self.heads:
            data["heads"] = self.heads
        if self.towers:
            data["towers"] = self.towers
        if self.chat_template:
            data["chat_template"] = self.chat_template
        if self.mixture is not None:
            data["mixture"] = self.mixture.to_json()
        if self.ensemble:
            data["ensemble"] = list(self.ensemble)
        return data

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON without paths; equal merges have equal digests."""
        data = self.to_json()
        if list(self.tokens) != sorted(self.tokens):
            data["tokenizer"]["order"] = list(self.tokens)  # new tokens are numbered in it
        for source in data["sources"].values():
            source.pop("path", None)
            source.pop("allow", None)
            if "calibration" in source:
                del source["calibration"]["path"]
        return hashlib.sha256(canonical_json(data).encode()).hexdigest()

    @property
    def checkpoints(self) -> dict[str, CheckpointSource]:
        """The checkpoint sources by name."""
        return {n: s for n, s in self.sources.items() if isinstance(s, CheckpointSource)}

    @property
    def row_tables(self) -> tuple[RowTable, ...]:
        """The side files it names."""
        found = (s.rows for s in self.sources.values() if isinstance(s, MergedSource))
        return tuple(rows for rows in found if rows is not None)

    @property
    def row_content(self) -> bytes:
        """That of the one side file that a genome's recipe has; empty without."""
        return b"".join(rows.content for rows in self.row_tables)

    @property
    def untied(self) -> bool:
        """Whether every source has a head of its own."""
        return self.heads == UNTIE

    @property
    def head_owner(self) -> str:
        """The source whose head all have; empty where heads are merged."""
        return head_owner(self.heads)

    def is_identity_path(self, layers: int, *, whole: bool = True) -> bool:
        """Whether the path is the `layers` layers of one source, in order and unscaled.

        `whole` asks that all outside the layers is of that source too (but for a head that all sources
        share), and the layers are of one.
        """
        outer = {p: name for p, name in self.outer.items() if p != "head" or not self.head_owner}
        names = {step.source for step in self.path} | set(outer.values())
        plain = all(step.layer == i and step.scale == 1.0 for i, step in enumerate(self.path))
        return (len(names) == 1 or not whole) and len(self.path) == layers and plain


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(data: Any) -> str:
    """JSON with sorted keys, no spaces and shortest round-trip floats; refuses NaN and infinities."""
    return _CANONICAL.encode(data)


@lru_cache(maxsize=64)
def identity_path(layers: int, source: str = MERGED) -> tuple[LayerStep, ...]:
    """Every layer of one source, in order."""
    return tuple(LayerStep(source, layer) for layer in range(layers))


def single_source_recipe(
    sources: Mapping[str, Source], name: str, layers: int, dtype: str, tokenizer: str = "base"
) -> Recipe:
    """The recipe whose result is source `name` as it stands (a checkpoint, or one merged source)."""
    return Recipe(
        sources=dict(sources),
        path=identity_path(layers, name),
        outer=dict.fromkeys(OUTER_PLACES, name),
        dtype=dtype,
        tokenizer=tokenizer,
    )


def _source_to_json(source: Source) -> dict[str, Any]:
    if isinstance(source, CheckpointSource):
        stored = {"checkpoint": source.digest, "path": source.path}
        own = {"on": source.on, "allow": list(source.allow)}
        return {**stored, **{key: value for key, value in own.items() if value}}
    data: dict[str, Any] = {
        "method": source.method,
        "inputs": list(source.inputs),
        "coefficients": {
            name: {key: dict(table) for key, table in by_input.items()}
            for name, by_input in source.coefficients.items()
        },
        "options": dict(source.options),
        "seed": source.seed,
    }
    if source.base is not None:
        data["base"] = source.base
    if source.shifts:
        data["shifts"] = dict(source.shifts)
    if source.function:
        data["function"] = source.function
    if source.rows is not None:
        data["rows"] = source.rows.digest
    if source.calibration is not None:
        data["calibration"] = {"path": source.calibration.path, "sha256": source.calibration.digest}
    return data


def checkpoint_recipe(
    sources: Mapping[str, CheckpointSource], name: str, layers: int, dtype: str
) -> Recipe:
    """The recipe that is the base or one expert as it stands, with the base's tokenizer."""
    kept = {key: sources[key] for key in dict.fromkeys(("base", name))}
    return single_source_recipe(kept, name, layers, dtype)


def single_coefficient_recipe(
    sources: Mapping[str, CheckpointSource],
    experts: Sequence[str],
    coefficient: float,
    layers: int,
    dtype: str,
) -> Recipe:
    """Task arithmetic with one coefficient for all experts and tensors."""
    return coefficients_recipe(sources, dict.fromkeys(experts, coefficient), layers, dtype)


def coefficients_recipe(
    sources: Mapping[str, CheckpointSource], weights: Mapping[str, float], layers: int, dtype: str
) -> Recipe:
    """Task arithmetic with one coefficient an expert, the same for all tensors."""
    merged = MergedSource(
        method="task_arithmetic",
        inputs=tuple(weights),
        base="base",
        coefficients={"weight": {name: {"": weight} for name, weight in weights.items()}},
    )
    return single_source_recipe({**sources, MERGED: merged}, MERGED, layers, dtype)


def head_owner(heads: str) -> str:
    """The source whose head all sources have by the word of a recipe; empty where heads are merged."""
    return "base" if heads == EACH else heads.removeprefix(KEEP) if heads.startswith(KEEP) else ""


@dataclass(frozen=True)
class ModelForm:
    """What all merges of a campaign have in common beside their weights.

    Attributes:
        tokenizer: the source whose vocabulary they have, or `UNION`; None where all share one.
        tokens: as in a recipe, and so `pad_to_multiple_of`; only with a `tokenizer`.
        rope: the source whose rotary positions they have; empty for those of the base.
        heads: as in a recipe, and so `towers`.
    """

    tokenizer: str | None = None
    rope: str = ""
    heads: str = ""
    towers: str = ""
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int = 0

    @property
    def untied(self) -> bool:
        """Whether every source has a head of its own."""
        return self.heads == UNTIE

    @property
    def head_owner(self) -> str:
        """The source whose head all have; empty where heads are merged."""
        return head_owner(self.heads)

    def given(self, recipe: Recipe, sources: Mapping[str, CheckpointSource]) -> Recipe:
        """The recipe in this form.

        Rows, positions and heads may come from any of the `sources`, so that all are part of it.
        """
        if self == AS_BASE:
            return recipe
        found = replace(
            recipe,
            sources={**sources, **recipe.sources},
            rope=self.rope,
            heads=self.heads,
            towers=self.towers,
        )
        if self.head_owner:
            # A copy, so that no method rounds what is the same in every source.
            found = replace(found, outer={**found.outer, "head": "base"})
        if self.tokenizer is None:
            return found
        return replace(
            found,
            tokenizer=self.tokenizer,
            align=True,
            tokens=self.tokens,
            pad_to_multiple_of=self.pad_to_multiple_of,
        )


AS_BASE = ModelForm()
"""The form of campaigns that state none."""
