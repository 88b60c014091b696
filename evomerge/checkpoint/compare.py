"""Whether experts fit a base, from configs and headers alone. Torch-free."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, config_layers, text_config
from evomerge.checkpoint.habits import differing_habits, habits, shortened
from evomerge.checkpoint.header import TensorHeader
from evomerge.checkpoint.rope import read_rope, same_rope
from evomerge.checkpoint.vocabulary import token_ids
from evomerge.errors import Problem
from evomerge.recipe.places import place_kind

Folder = CheckpointFolder | AdapterFolder

MERGED_ANYWAY = frozenset({"E228", "E231"})
"""Codes that are warnings: the merge ends where its config and tokenizer say; it is computed in float32."""

_PACKED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax")
_PACKED_DTYPES = ("float8_e4m3fn", "float8_e5m2", "uint8", "int8")
_SHOWN = 5
_HEADS = (
    "`heads: keep:EXPERT` (or `keep:base`) in a campaign or recipe gives all models that head; `heads: each` "
    "merges the rest and leaves every model its own"
)
_BLOCK = 1 << 22
_ALIGN = (
    "`tokenizer: {source: union}` (or `base`, or an expert) in a campaign or recipe aligns them, "
    "`tokenizer_source: union` (or `base`) in a mergekit YAML"
)


def compare_with_base(base: CheckpointFolder, experts: Sequence[Folder]) -> list[Problem]:
    """Everything in which experts do not fit the base, in one list.

    E202 fields of a config that cannot be read, and nothing else then; E220 and E221 tensors missing or
    unknown, E223 shapes, E224 architecture numbers (layers, sizes, heads), E225 model type, E226 vocabulary
    size, E227 same ids with other tokens, E229 tying, E230 quantised weights, E245 rotary positions; and what
    is `MERGED_ANYWAY`: E228 other special tokens, generation settings or chat template, E231 mixed dtypes.
    """
    full = [base, *(expert for expert in experts if isinstance(expert, CheckpointFolder))]
    if unreadable := [problem for folder in full for problem in _unreadable(folder)]:
        return unreadable
    problems = _quantised(base)
    for expert in experts:
        if isinstance(expert, AdapterFolder):
            problems += _special(base, expert)
            continue  # the rest was checked against the base when it was opened
        problems += _quantised(expert)
        if other := other_architecture(base, expert):
            problems += other
            continue
        problems += _numbers(base, expert) + _rope(base, expert)
        problems += _vocabulary(base, expert) + _special(base, expert)
        if tied_in_one(base, expert):
            found = f"base {_tying(base)}, {expert.name} {_tying(expert)}"
            todo = "`heads: untie` in a campaign or recipe gives every model a head of its own"
            wrong = "embedding and head are tied in one only"
            problems.append(_problem("E229", expert, wrong, found, todo))
        problems += _classes(base, expert)
        problems += _tensors(base, expert)
    return problems + _dtypes(base, experts)


def _unreadable(folder: CheckpointFolder) -> list[Problem]:
    """E202 for what a config states in a form that transformers does not read either."""
    part, labels = text_config(folder.config), folder.config.get("id2label")
    stated = {key: part.get(key) for key in ("rope_parameters", "rope_scaling")}
    wrong = {key: (value, "an object") for key, value in stated.items()}
    wrong = {key: each for key, each in wrong.items() if not isinstance(each[0] or {}, Mapping)}
    if isinstance(labels, dict) and not all(key.isdecimal() for key in labels):
        wrong["id2label"] = (labels, "an object with a number for each class")
    file = str(folder.path / "config.json")
    return [
        Problem("E202", f"{folder.name}: must be {form}", shortened(value), file=file, field=key)
        for key, (value, form) in wrong.items()
    ]


def other_architecture(base: CheckpointFolder, expert: CheckpointFolder) -> list[Problem]:
    """E225 for models of two architectures, of which nothing else need be compared."""
    ours, theirs = (folder.config.get("model_type") for folder in (base, expert))
    if ours == theirs:
        return []
    found = f"{base.name} is {ours}, {expert.name} is {theirs}"
    return [_problem("E225", expert, "architectures cannot be merged", found, field="model_type")]


def _problem(
    code: str, folder: Folder, wrong: str, found: str = "", todo: str = "", field: str = ""
) -> Problem:
    path = (folder.adapter if isinstance(folder, CheckpointFolder) else None) or folder.path
    return Problem(code, f"{folder.name}: {wrong}", found, todo, str(path), field=field)


def tied_in_one(base: CheckpointFolder, expert: CheckpointFolder) -> bool:
    """Whether only one of two models has a head of its own, which it uses."""
    return base.tied != expert.tied and not (base.tied and tied_but_for_its_name(expert))


def tied_but_for_its_name(folder: CheckpointFolder) -> bool:
    """Whether the rows of an untied head are those of the embedding, byte for byte."""
    heads = [folder.tensors[t] for t, place in folder.places.items() if place == "head"]
    embeddings = [
        folder.tensors[t] for t, place in folder.places.items() if place_kind(place) == "embed"
    ]
    return bool(heads) and all(any(_equal(folder, h, e) for e in embeddings) for h in heads)


def _equal(folder: CheckpointFolder, left: TensorHeader, right: TensorHeader) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape) or not left.file:
        return False  # without a file: PEFT has yet to make it
    with (folder.path / left.file).open("rb") as one, (folder.path / right.file).open("rb") as other:
        one.seek(left.offset)
        other.seek(right.offset)
        for start in range(0, left.nbytes, _BLOCK):
            count = min(_BLOCK, left.nbytes - start)
            if one.read(count) != other.read(count):
                return False
    return True


def _tying(folder: CheckpointFolder) -> str:
    return "ties its head" if folder.tied else "has a head of its own"


def _quantised(folder: CheckpointFolder) -> list[Problem]:
    settings = folder.config.get("quantization_config")
    method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else None
    packed = [
        name
        for name, header in folder.tensors.items()
        if name.endswith(_PACKED) or (header.dtype in _PACKED_DTYPES and len(header.shape) > 1)
    ]
    if method is None and not packed:
        return []
    found = f"quantization_config says {method}" if method else f"packed tensors such as {packed[0]}"
    todo = "give the original weights"
    return [_problem("E230", folder, "quantised weights cannot be merged", found, todo)]


def _key_value_heads(part: Mapping[str, Any]) -> Any:
    stated = part.get("num_key_value_heads")
    return stated if stated is not None else part.get("num_attention_heads")


def _head_size(part: Mapping[str, Any]) -> Any:
    stated, hidden, heads = (part.get(k) for k in ("head_dim", "hidden_size", "num_attention_heads"))
    if stated is None and isinstance(hidden, int) and isinstance(heads, int) and heads:
        return hidden // heads
    return stated


def _plain(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda part: part.get(key)


_NUMBERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "layers": config_layers,
    "hidden_size": _plain("hidden_size"),
    "intermediate_size": _plain("intermediate_size"),
    "num_attention_heads": _plain("num_attention_heads"),
    "num_key_value_heads": _key_value_heads,
    "head_dim": _head_size,
    "rotary_dim": _plain("rotary_dim"),
    "sliding_window": _plain("sliding_window"),
    "layer_types": _plain("layer_types"),
    "hidden_act": _plain("hidden_act"),
    "num_local_experts": _plain("num_local_experts"),
    "num_experts": _plain("num_experts"),
    "num_experts_per_tok": _plain("num_experts_per_tok"),
}


def _numbers(base: CheckpointFolder, expert: CheckpointFolder) -> list[Problem]:
    ours, theirs = text_config(base.config), text_config(expert.config)
    differing = []
    for name, read in _NUMBERS.items():
        left, right = read(ours), read(theirs)
        # A field that one config leaves to the architecture's default cannot be compared.
        if left is not None and right is not None and left != right:
            differing.append(f"{name}: base {shortened(left)}, {expert.name} {shortened(right)}")
    if not differing:
        return []
    return [_problem("E224", expert, "the architecture differs from the base's", "; ".join(differing))]


def _rope(base: CheckpointFolder, expert: CheckpointFolder) -> list[Problem]:
    ours, theirs = text_config(base.config), text_config(expert.config)
    if same_rope(ours, theirs):
        return []
    left, right = read_rope(ours), read_rope(theirs)
    kinds = [kind for kind in left | right if left.get(kind) != right.get(kind)]
    differing = []
    for kind in kinds:
        one, other = left.get(kind, {}), right.get(kind, {})
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                values = f"base {shortened(one.get(key))}, {expert.name} {shortened(other.get(key))}"
                differing.append(f"{kind + '.' if kind else ''}{key}: {values}")
    wrong = "rotary positions (RoPE) differ from the base's"
    todo = "`allow: [rope]` at its entry in a campaign or recipe merges them; "
    todo += "the result has the base's, or those of the model that `rope:` names"
    return [_problem("E245", expert, wrong, "; ".join(differing), todo, field="rope")]


def _vocabulary(base: CheckpointFolder, expert: CheckpointFolder) -> list[Problem]:
    left, right = (text_config(folder.config).get("vocab_size") for folder in (base, expert))
    ours, theirs = token_ids(base.path), token_ids(expert.path)
    if left is not None and right is not None and left != right:
        found = f"base {left}, {expert.name} {right}"
        if ours and theirs:
            found += _only(theirs, ours, "the base lacks") + _only(ours, theirs, f"{expert.name} lacks")
        return [_problem("E226", expert, "vocabulary sizes differ", found, _ALIGN, "vocab_size")]
    moved = sorted(
        (number, token) for token, number in ours.items() if theirs.get(token, number) != number
    )
    if ours and theirs and moved:
        shown = ", ".join(
            f"{token!r} is {number} and {theirs[token]}" for number, token in moved[:_SHOWN]
        )
        found = f"{len(moved)} tokens have other ids: {shown}"
        return [_problem("E227", expert, "the same ids mean different tokens", found, _ALIGN)]
    return []


def _special(base: CheckpointFolder, expert: Folder) -> list[Problem]:
    """Special tokens, generation settings and chat templates that differ: generation may never end."""
    ours, theirs = model_habits(base), model_habits(expert)
    differing = [
        f"{key}: base {shortened(left)}, {expert.name} {shortened(right)}"
        for key, (left, right) in differing_habits(ours, theirs).items()
    ]
    if not differing:
        return []
    todo = "the merge takes those of the model whose tokenizer it takes; a union stops where any of them does"
    wrong = "special tokens, generation settings or chat template differ from the base's"
    return [_problem("E228", expert, wrong, "; ".join(differing), todo)]


def model_habits(folder: Folder) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `habits` of a model; what an adapter leaves out is that of the model it is read against."""
    if not isinstance(folder, AdapterFolder):
        return habits(folder.path, text_config(folder.config))
    (ids, settings), own = model_habits(folder.base), habits(folder.path, {})
    return {**ids, **_stated(own[0])}, {**settings, **_stated(own[1])}


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _only(tokens: Mapping[str, int], others: Mapping[str, int], words: str) -> str:
    """The tokens that only one has, counted and the first of them shown."""
    found = sorted((number, token) for token, number in tokens.items() if token not in others)
    if not found:
        return ""
    shown = ", ".join(repr(token) for _, token in found[:_SHOWN])
    return f"; {len(found)} tokens {words}: {shown}" + (", ..." if len(found) > _SHOWN else "")


def _tensors(base: CheckpointFolder, expert: CheckpointFolder) -> list[Problem]:
    problems = []
    missing = [name for name in base.tensors if name not in expert.tensors]
    unknown = [name for name in expert.tensors if name not in base.tensors]
    if base.tied != expert.tied:
        # Reported as E229 already.
        heads = {n for f in (base, expert) for n, place in f.places.items() if place == "head"}
        missing = [name for name in missing if name not in heads]
        unknown = [name for name in unknown if name not in heads]
    if missing:
        found = _few(missing, len(base.tensors))
        problems.append(_problem("E220", expert, "tensors missing", found, field=missing[0]))
    if unknown:
        found = _few(unknown, len(expert.tensors))
        problems.append(
            _problem("E221", expert, "tensors the base does not have", found, field=unknown[0])
        )
    sizes = {text_config(folder.config).get("vocab_size") for folder in (base, expert)}
    for name, header in base.tensors.items():
        other = expert.tensors.get(name)
        if other is None or other.shape == header.shape:
            continue
        found = f"base {list(header.shape)}, {expert.name} {list(other.shape)}"
        if base.places[name] == "head" and not base.names.decoder:
            problems.append(_problem("E223", expert, "another head", found, _HEADS, name))
        elif not _by_token(name, base, header.shape, other.shape):
            problems.append(_problem("E223", expert, "wrong shape", found, field=name))
        elif len(sizes) == 1:  # else said as E226
            ours, theirs = token_ids(base.path), token_ids(expert.path)
            found += _only(theirs, ours, "the base lacks") + _only(ours, theirs, f"{expert.name} lacks")
            wrong = "another number of tokens than its config says or than the base has"
            todo = "set `vocab_size` of each config to the rows of its embedding; then " + _ALIGN
            problems.append(_problem("E223", expert, wrong, found, todo, field=name))
    return problems


def _classes(base: CheckpointFolder, expert: CheckpointFolder) -> list[Problem]:
    """E247 for heads of one size whose rows are other classes."""
    ours, theirs = (folder.config.get("id2label") for folder in (base, expert))
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return []
    left, right = ({int(n): name for n, name in each.items()} for each in (ours, theirs))
    if base.shares_head or len(left) != len(right) or left == right:
        return []
    differing = [f"{n}: base {left[n]!r}, {expert.name} {right.get(n)!r}" for n in sorted(left)]
    differing = [
        text for n, text in zip(sorted(left), differing, strict=True) if left[n] != right.get(n)
    ]
    found = _few(differing, len(left))
    return [_problem("E247", expert, "the classes differ from the base's", found, _HEADS, "id2label")]


def _by_token(
    name: str, base: CheckpointFolder, shape: tuple[int, ...], other: tuple[int, ...]
) -> bool:
    """Whether two tensors are embeddings or heads that differ in the number of tokens alone."""
    outside = place_kind(base.places[name]) in ("embed", "head") and not re.search(r"pos|wpe", name)
    return outside and shape[1:] == other[1:] and len(shape) == len(other)


def _few(names: Sequence[str], total: int) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} of {total}: {', '.join(names[:_SHOWN])}{more}"


def _dtypes(base: CheckpointFolder, experts: Sequence[Folder]) -> list[Problem]:
    kinds = {
        folder.name: Counter(h.dtype for h in folder.tensors.values() if h.is_float)
        for folder in (base, *(e for e in experts if isinstance(e, CheckpointFolder)))
    }
    if len({kind for counts in kinds.values() for kind in counts}) <= 1:
        return []
    found = "; ".join(
        f"{name} {', '.join(f'{kind} ({count})' for kind, count in sorted(counts.items()))}"
        for name, counts in kinds.items()
    )
    return [_problem("E231", base, "mixed dtypes; merged in float32", found)]
