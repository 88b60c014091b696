"""Adapters in PEFT's format, opened against a base; LoRA is read as low-rank factors. Torch-free.

`delta = scale * B @ A` for a module with weight [out, in], A [r, in], B [out, r] (Hu et al. 2021,
arXiv:2106.09685); `scale = alpha / r`, or `alpha / sqrt(r)` for rank-stabilised adapters (Kalajdzievski
2023, arXiv:2312.03732). Embeddings and transposed layers (`fan_in_fan_out`) store the transpose.
Adapters of other kinds have no factors; `by_peft.py` says which full model PEFT makes of them. So have those
that train one of an embedding and a head which the base ties together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.adapter_config import FACTORED, adapter_kind
from evomerge.checkpoint.folder import CheckpointFolder, is_decoder, read_json, text_config
from evomerge.checkpoint.header import TensorHeader, read_header
from evomerge.errors import CheckpointError, Problem
from evomerge.recipe.places import place_kind

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SAVED = ("weight", "modules_to_save.", "original_module.")
"""What follows a module's name where all its rows are stored."""
_TOKENS = ("token_adapter.", "trainable_tokens_")
"""What follows it where rows of some tokens are."""
_FACTOR = re.compile(
    r"^(.*)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.default)?(?:\.weight)?$"
)


@dataclass(frozen=True)
class LowRank:
    """One tensor's delta, `scale * left @ right`; with `transposed`, its transpose is what is stored.

    Attributes:
        a: factor with shape [r, in]; `b` with shape [out, r], as PEFT names them.
        scale: the adapter's own factor.
        transposed: whether the base tensor has shape [in, out].
    """

    a: TensorHeader
    b: TensorHeader
    scale: float
    transposed: bool


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter and the full model it is read against.

    Attributes:
        headers: the tensors of its file.
        kind: what it is; `FACTORED`, or what PEFT merges (`DoRA`, `AdaLoRA`, ...).
        factors: base tensor name to its low-rank delta; empty unless it is `FACTORED`.
        own_head: the name of the head's tensor, where the base ties embedding and head and the adapter trains
            one of them, or each by itself: merged, they are two. Else empty.
        warnings: what a person should know and what does not stop a merge (E205).
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    base: CheckpointFolder
    headers: Mapping[str, TensorHeader]
    kind: str
    factors: Mapping[str, LowRank]
    own_head: str = ""
    warnings: tuple[Problem, ...] = ()

    @property
    def factored(self) -> bool:
        """Whether it is used as it is; PEFT must merge every other one before it can be read."""
        return self.kind == FACTORED

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """The tensors the merged model has: those of the base."""
        return self.base.tensors

    @property
    def files(self) -> tuple[str, ...]:
        """The weight files."""
        return (WEIGHTS,)


def open_adapter(path: str | Path, name: str, base: CheckpointFolder) -> AdapterFolder:
    """Open a PEFT adapter against `base`.

    Raises:
        CheckpointError: E201 no folder, E202 no config, E206 pickle weights, E215 no weights, E208 to
            E214 damaged file, E220 half of a pair of factors, E221 a module the base does not have,
            E223 a factor of the wrong shape, E234 every field of the config and tensor that is not
            understood; one problem for each kind of fault.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(Problem("E201", f"{name}: no such folder", file=str(folder)))
    config = read_json(folder / "adapter_config.json", "E202", f"{name}: adapter config unreadable")
    kind = adapter_kind(config, name, folder)
    if not (folder / WEIGHTS).exists():
        if (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                Problem("E206", f"{name}: pickle weights are refused, they can run code",
                        "adapter_model.bin", "save the adapter as safetensors", str(folder))
            )  # fmt: skip
        raise CheckpointError(Problem("E215", f"{name} has no {WEIGHTS}", file=str(folder)))
    headers = read_header(folder / WEIGHTS)
    tied = _of_the_tied(headers, base)
    if kind == FACTORED and any(stored_whole(key, base) for key in headers):
        kind = "LoRA with whole embedding rows"
    elif kind == FACTORED and tied:
        kind = "LoRA of a tied embedding"
    elif kind == FACTORED and _renamed(headers, base):
        kind = "LoRA of renamed modules"
    factors = _factors(headers, config, base, str(folder / WEIGHTS)) if kind == FACTORED else {}
    stated = str(config.get("base_model_name_or_path") or "")
    own = {str(base.path), base.path.name, str(base.config.get("_name_or_path", ""))}
    # The hub's cache keeps `org/name` in a folder of this name.
    own |= {part.removeprefix("models--").replace("--", "/") for part in base.path.parts}
    warnings: tuple[Problem, ...] = ()
    if stated and stated not in own and Path(stated).name not in own:
        found = f"trained on {stated}, the base here is {base.path}"
        warnings = (
            Problem("E205", f"{name}: the adapter names another base", found,
                    "make sure they are the same weights", str(folder)),
        )  # fmt: skip
    own_head = _own_head(tied, config, base)
    return AdapterFolder(name, folder, config, base, headers, kind, factors, own_head, warnings)


def _inside(key: str, base: CheckpointFolder) -> str:
    """The name inside the model of what an adapter stores, as the base's files have it.

    Some files, as the hub's of GPT-2, begin inside the module that holds all but the head (`transformer`).
    """
    name = key.removeprefix(_PREFIX)
    parts = name.split(".")[1:]
    modules = (".".join(parts[: count + 1]) for count in range(len(parts)))
    bare = any(f"{module}.weight" in base.tensors for module in modules)
    return name.partition(".")[2] if bare else name


def stored_whole(key: str, base: CheckpointFolder) -> str | None:
    """The embedding or head of the base that tensor `key` of an adapter replaces, or None.

    PEFT stores them beside factors of theirs, and where tokens were added.
    """
    tensor = _inside(key, base).replace(".base_layer.", ".")
    return tensor if place_kind(base.places.get(tensor, "")) in ("embed", "head") else None


def _renamed(headers: Mapping[str, TensorHeader], base: CheckpointFolder) -> bool:
    """Whether a LoRA has modules that the files of a base that is no decoder do not name.

    transformers renames modules of such models when it loads them (LLaVA, ViT). PEFT goes by the live ones,
    and finds or misses them.
    """
    matches = [_FACTOR.match(key) for key in headers]
    tensors = [_inside(f"{match[1]}.weight", base) for match in matches if match is not None]
    return not base.names.decoder and any(t not in base.tensors for t in tensors)


def _of_the_tied(headers: Mapping[str, TensorHeader], base: CheckpointFolder) -> list[tuple[str, str]]:
    """What is stored of an embedding and a head that are one in the base: (tensor, rest of the name)."""
    rows = text_config(base.config).get("vocab_size")
    embeddings = [
        t
        for t, h in base.tensors.items()
        if place_kind(base.places[t]) == "embed" and h.shape[:1] == (rows,)
    ]
    found = []
    for key in headers if base.tied else ():
        inside = _inside(key, base)
        for tensor in (*embeddings, _head_of(base)):
            rest = inside.removeprefix(tensor.removesuffix("weight"))
            if rest != inside:
                found.append((tensor, rest))
                break
    return found


def _head_of(base: CheckpointFolder) -> str:
    """The head's tensor of a decoder whose files need not have one."""
    named = "embed_out.weight" if "gpt_neox" in str(base.config.get("model_type")) else "lm_head.weight"
    return next(iter(base.redundant), named)


def _own_head(
    tied: Sequence[tuple[str, str]], config: Mapping[str, Any], base: CheckpointFolder
) -> str:
    """The head's tensor, if head and embedding are no longer one with the adapter; else empty.

    PEFT ties what is trained of both where `ensure_weight_tying` is set, and where tokens are trained of the
    embedding alone. Rows beside factors of theirs are those of the base.
    """
    head = _head_of(base)
    if config.get("ensure_weight_tying") or not is_decoder(base.config):
        return ""
    saved = tuple(config.get("modules_to_save") or ())
    for tensor, rest in tied:
        if rest.startswith(_SAVED):
            apart = bool(saved) and tensor.removesuffix(".weight").endswith(saved)
        elif rest.startswith(_TOKENS):
            apart = tensor == head
        else:
            apart = not rest.startswith("base_layer.")
        if apart:
            return head
    return ""


def _pattern_value(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first key that matches the end of the module's name, at a dot."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _factors(
    headers: Mapping[str, TensorHeader],
    config: Mapping[str, Any],
    base: CheckpointFolder,
    file: str,
) -> dict[str, LowRank]:
    faults: list[tuple[str, str, str, str]] = []
    modules: dict[str, dict[str, TensorHeader]] = {}
    live: dict[str, str] = {}
    for key, header in headers.items():
        match = _FACTOR.match(key)
        if match is None:
            faults.append(("E234", "not a LoRA factor", key, "its config says plain LoRA"))
            continue
        module = _inside(f"{match[1]}.weight", base).removesuffix(".weight")
        live[module] = match[1].removeprefix(_PREFIX)
        modules.setdefault(module, {})[match[2]] = header
    factors: dict[str, LowRank] = {}
    flipped = _fan_in_fan_out(modules, config, base)
    for module, parts in modules.items():
        tensor = f"{module}.weight"
        embedding = "lora_embedding_A" in parts
        a = parts.get("lora_embedding_A" if embedding else "lora_A")
        b = parts.get("lora_embedding_B" if embedding else "lora_B")
        if a is None or b is None:
            found = f"found {', '.join(sorted(parts))}"
            faults.append(("E220", "one factor is missing", module, found))
            continue
        target = base.tensors.get(tensor)
        if target is None:
            found = f"{base.path} has no tensor {tensor}"
            faults.append(("E221", "the base has no such module", module, found))
            continue
        rank = _pattern_value(config.get("rank_pattern") or {}, live[module], config["r"])
        alpha = _pattern_value(config.get("alpha_pattern") or {}, live[module], config["lora_alpha"])
        # PEFT goes by the class of the layer, whatever the config says; a shape that is not square tells it.
        outer = _product(a, b)
        square = len(set(target.shape)) == 1
        transposed = embedding or (flipped if square else target.shape == outer[::-1])
        wanted = target.shape[::-1] if transposed else target.shape
        if len(wanted) != 2 or (a.shape, b.shape) != ((rank, wanted[1]), (wanted[0], rank)):
            found = f"A {list(a.shape)}, B {list(b.shape)}, base {list(target.shape)}, rank {rank}"
            faults.append(("E223", "factor of the wrong shape", module, found))
            continue
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        factors[tensor] = LowRank(a, b, float(scale), transposed)
    if faults:
        raise CheckpointError(_by_code(faults, file))
    return factors


def _product(a: TensorHeader, b: TensorHeader) -> tuple[int, ...]:
    """The shape of `B @ A`."""
    return (*b.shape[:1], *a.shape[1:])


def _fan_in_fan_out(
    modules: Mapping[str, Mapping[str, TensorHeader]], config: Mapping[str, Any], base: CheckpointFolder
) -> bool:
    """Whether square weights inside the layers are stored as [in, out]: as those beside them are."""
    seen = set()
    for module, parts in modules.items():
        target = base.tensors.get(f"{module}.weight")
        if target is None or base.names.split(f"{module}.weight") is None or len(parts) != 2:
            continue
        outer = _product(parts["lora_A"], parts["lora_B"]) if "lora_A" in parts else ()
        if len(set(outer)) == 2 and target.shape in (outer, outer[::-1]):
            seen.add(target.shape != outer)
    return seen.pop() if len(seen) == 1 else bool(config.get("fan_in_fan_out"))


def _by_code(faults: Sequence[tuple[str, str, str, str]], file: str) -> list[Problem]:
    """One problem for each kind of (code, what is wrong, field, found), with a count and the first."""
    problems = []
    for code, wrong in dict.fromkeys((code, wrong) for code, wrong, _, _ in faults):
        same = [(field, found) for c, w, field, found in faults if (c, w) == (code, wrong)]
        field, found = same[0]
        if len(same) > 1:
            wrong, found = f"{wrong}, {len(same)} in all", f"the first: {found}"
        problems.append(Problem(code, wrong, found, "", file, field=field))
    return problems
