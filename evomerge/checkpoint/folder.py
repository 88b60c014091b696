"""A model folder as data: config, index and headers, checked before a weight is read. Torch-free."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from evomerge.checkpoint.header import TensorHeader, read_header
from evomerge.checkpoint.layout import (
    LayerNames,
    is_buffer,
    layer_names,
    place_of,
    places_of,
    tensor_places_of,
)
from evomerge.checkpoint.output_rows import rows_by_place
from evomerge.errors import CheckpointError, Problem
from evomerge.recipe.places import FURTHER_PLACES, MODULES, OUTER_PLACES, leaf_places
from evomerge.search_space import ModelLayout

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
GGUF = ".gguf"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
JSON_LIMIT = 256 * 1024 * 1024
_HEADS = ("ForCausalLM", "LMHeadModel")
_SENSES = ("vision", "audio", "speech", "encoder", "video", "image", "thinker", "talker")
_NOT_BY_LAYER = ("_token_id", "_token_ids", "architectures")
_LAYERS_OF = {
    "encoder": ("encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
LAYER_FIELDS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


@dataclass(frozen=True)
class CheckpointFolder:
    """A full model.

    Attributes:
        name: what the campaign calls it (`base`, an expert's name).
        path: its folder.
        config: `config.json`.
        tensors: checkpoint tensor name to where it lies; without `redundant` and without buffers that
            are no weights.
        tied: whether the head is the embedding, or there is no head over a vocabulary.
        layers: number of layers, of all towers together.
        names: how the layers are numbered.
        redundant: tensors in the files that tying makes copies of others, by name.
        warnings: what a person should know and what does not stop a merge (E205, E246).
        shares_head: whether all models of the merge have the same head, which is then no place of a search.
        adapter: where the adapter lies of which this is what PEFT will make; None for a folder as it lies.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]
    tied: bool
    layers: int
    names: LayerNames
    redundant: Mapping[str, TensorHeader] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    shares_head: bool = False
    adapter: Path | None = None

    @cached_property
    def places(self) -> dict[str, str]:
        """The place of every tensor."""
        return places_of(self.tensors, self.names)

    @cached_property
    def tensor_places(self) -> dict[str, str]:
        """The finest place of every tensor."""
        return tensor_places_of(self.tensors, self.names)

    @cached_property
    def layout(self) -> ModelLayout:
        """What a search space must know of the model; `active` is None until weights were read."""
        used = set(self.places.values()) - ({"head"} if self.shares_head else set())
        outer = (*FURTHER_PLACES, *OUTER_PLACES)
        if len(self.names.towers) > 1:
            places = ["embed"]
            for tower in self.names.towers:
                inner = leaf_places(tower.count, MODULES, outer)
                places += [f"{tower.name}.{place}" for place in inner]
            places += [place for place in outer if place != "embed"]
        else:
            places = list(leaf_places(self.layers, MODULES, outer))
        return ModelLayout(
            layers=self.layers,
            places=tuple(place for place in places if place in used),
            parameters=self.parameters,
        )

    @cached_property
    def tensor_layout(self) -> ModelLayout:
        """The same with the finest places there are."""
        finer: dict[str, set[str]] = {}
        for tensor, place in self.places.items():
            finer.setdefault(place, set()).add(self.tensor_places[tensor])
        places = [fine for place in self.layout.places for fine in sorted(finer[place])]
        return replace(self.layout, places=tuple(places))

    @cached_property
    def row_layout(self) -> ModelLayout:
        """The finest places, and of each whose output rows are told apart their number; see `output_rows`."""
        counts = rows_by_place(self.tensors, self.tensor_places)
        rows = {place: counts.get(place, 1) for place in self.tensor_layout.places}
        return replace(self.tensor_layout, rows={place: n for place, n in rows.items() if n > 1})

    @property
    def without_rows(self) -> tuple[str, ...]:
        """Places with a matrix that `row_layout` has one value for, in its order."""
        matrices = {
            self.tensor_places[tensor]
            for tensor, header in self.tensors.items()
            if len(header.shape) > 1 and header.shape[0] > 1 and header.is_float
        }
        layout = self.row_layout
        return tuple(p for p in layout.places if p in matrices and p not in layout.rows)

    def layout_by(self, *, tensor: bool, row: bool) -> ModelLayout:
        """The layout, cut as fine as it is asked for."""
        return self.row_layout if row else self.tensor_layout if tensor else self.layout

    @property
    def parameters(self) -> int:
        """Number of parameters; a tied head counts once."""
        return sum(header.elements for header in self.tensors.values() if header.is_float)

    @property
    def files(self) -> tuple[str, ...]:
        """The weight files, sorted."""
        headers = (*self.tensors.values(), *self.redundant.values())
        return tuple(sorted({header.file for header in headers}))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def config_layers(config: Mapping[str, Any]) -> int | None:
    """The number of layers a config states, under any of the names in use."""
    part = text_config(config)
    return next((part[key] for key in LAYER_FIELDS if isinstance(part.get(key), int)), None)


def layer_lists(config: Mapping[str, Any], layers: int) -> dict[str, list[Any]]:
    """The settings of a decoder's config that have one entry a layer (`layer_types`, say)."""
    return {
        key: value
        for key, value in config.items()
        if isinstance(value, list) and len(value) == layers and not key.endswith(_NOT_BY_LAYER)
    }


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter: it has the config of one, and is not a full model as well."""
    files = (SINGLE_FILE, INDEX_FILE)
    full = (folder / "config.json").is_file() and any((folder / file).exists() for file in files)
    return (folder / ADAPTER_FILES[0]).is_file() and not full


def open_folder(path: str | Path, name: str) -> CheckpointFolder:
    """Open a full model: config, index, and the header of every weight file.

    Raises:
        CheckpointError: E201 no folder, E202 no usable config, E204 an adapter, E206 only
            pickle weights, E208 to E214 damaged files, E215 to E219 index faults, E222 another number of
            layers, E230 GGUF, E240 an unreadable file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(_missing_folder(folder, name))
    if is_adapter(folder):
        base = _hub_base(folder)
        raise CheckpointError(
            Problem("E204", f"{name} is an adapter, not a full model", f"its base is {base}",
                    "in a campaign list it under `experts`, its base as `base`; in a mergekit YAML "
                    "write BASE+ADAPTER", str(folder))
        )  # fmt: skip
    files = sorted(entry.name for entry in os.scandir(folder))
    if any(file.endswith(GGUF) for file in files) and not any(
        f.endswith(".safetensors") for f in files
    ):
        raise CheckpointError(_gguf(folder, name))
    config = read_json(folder / "config.json", "E202", f"{name} has no usable config.json")
    headers, warnings = _weight_headers(folder, name)
    everything = {tensor: header for tensor, header in headers.items() if not is_buffer(tensor, header)}
    names = layer_names(everything, is_decoder(config))
    heads = {t: h for t, h in everything.items() if place_of(t, names, h) == "head"}
    if not names.decoder:
        # Tying makes copies of what is as large as the embedding of the vocabulary, and of no classifier.
        rows = text_config(config).get("vocab_size")
        heads = {t: h for t, h in heads.items() if len(h.shape) == 2 and h.shape[0] == rows}
    flag = text_config(config).get("tie_word_embeddings", config.get("tie_word_embeddings"))
    redundant = heads if flag is True else {}
    for tower in names.towers:
        stated = _stated_layers(config, tower.name)
        if stated is not None and stated != tower.count:
            of = f" of {tower.name}" if tower.name else ""
            found = f"config says {stated}, the files have {tower.count}"
            raise CheckpointError(
                Problem("E222", f"{name}: number of layers{of} differs", found, file=str(folder))
            )
    return CheckpointFolder(
        name=name,
        path=folder,
        config=config,
        tensors={t: h for t, h in everything.items() if t not in redundant},
        tied=flag is True or not heads,
        layers=names.count,
        names=names,
        redundant=redundant,
        warnings=(*warnings, *_beside(folder, name)),
    )


def _beside(folder: Path, name: str) -> tuple[Problem, ...]:
    """A warning where an adapter lies in the folder of a full model."""
    if not (folder / ADAPTER_FILES[0]).is_file():
        return ()
    found = f"{ADAPTER_FILES[0]} lies beside its weights"
    todo = "if the adapter is meant, put it into a folder of its own"
    return (Problem("E205", f"{name} is read as the full model it is", found, todo, str(folder)),)


def is_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a decoder with a head over its vocabulary, and of nothing more."""
    senses = [
        key for key in config if key.endswith("_config") and key.removesuffix("_config") in _SENSES
    ]
    named = architectures(config)
    return not (senses or config.get("is_encoder_decoder") or (named and not any(map(_is_head, named))))


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a config names."""
    stated = config.get("architectures")
    return tuple(map(str, stated)) if isinstance(stated, list) else ()


def _is_head(architecture: str) -> bool:
    return architecture.endswith(_HEADS)


def _stated_layers(config: Mapping[str, Any], tower: str) -> int | None:
    """The number of layers that a config states for a tower, None where it says nothing of it."""
    if tower in ("", "text"):
        return config_layers(config)
    part: Any = config.get(f"{tower}_config")
    keys: tuple[str, ...] = (*LAYER_FIELDS, "depth")
    if not isinstance(part, dict):
        part, keys = config, _LAYERS_OF.get(tower, ())
    return next((part[key] for key in keys if isinstance(part.get(key), int)), None)


def read_json(path: Path, code: str, wrong: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: with `code` and `wrong` if it is missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise CheckpointError(Problem(code, wrong, "the file is too large", file=str(path)))
        data = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        found = error.strerror or str(error)
        raise CheckpointError(Problem(code, wrong, found, file=str(path))) from error
    except (ValueError, RecursionError) as error:
        found = f"not JSON: {error}"
        raise CheckpointError(Problem(code, wrong, found, file=str(path))) from error
    if not isinstance(data, dict):
        raise CheckpointError(Problem(code, wrong, "not a JSON object", file=str(path)))
    return data


def _missing_folder(folder: Path, name: str) -> Problem:
    if folder.exists() and folder.name.endswith(GGUF):
        return _gguf(folder, name)
    if folder.exists():
        todo = f"give the folder it lies in, {folder.parent}"
        return Problem(
            "E201", f"{name}: a model is a folder, this is a file", "", todo, file=str(folder)
        )
    near: list[str] = []
    if folder.parent.is_dir():
        siblings = [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()]
        near = difflib.get_close_matches(folder.name, siblings, n=1)
    todo = f"did you mean {folder.parent / near[0]}?" if near else "check the path"
    return Problem("E201", f"{name}: no such folder", "", todo, file=str(folder))


def _gguf(path: Path, name: str) -> Problem:
    todo = "give the folder of the original weights (safetensors and config.json)"
    return Problem(
        "E230", f"{name}: GGUF files are for inference and cannot be merged", "", todo, str(path)
    )


def _hub_base(folder: Path) -> str:
    config = read_json(folder / "adapter_config.json", "E214", "adapter config unreadable")
    return str(config.get("base_model_name_or_path") or "not stated")


def _weight_headers(folder: Path, name: str) -> tuple[dict[str, TensorHeader], tuple[Problem, ...]]:
    """The tensors that transformers would load, and what a person should know of that choice."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists():
        if not index.exists():
            return read_header(single), ()
        wrong = f"{name} has {SINGLE_FILE} and shards; the single file is read, as transformers does"
        passed = Problem(
            "E246", wrong, f"{INDEX_FILE} is passed over", "remove what is not meant", str(folder)
        )
        return read_header(single), (passed,)
    if index.exists():
        return _indexed(folder), ()
    files = sorted(entry.name for entry in os.scandir(folder))
    shards = [file for file in files if file.endswith(".safetensors") and "-of-" in file]
    if shards:
        raise CheckpointError(
            Problem("E216", "shards without an index", f"{len(shards)} shards",
                    f"add {INDEX_FILE}", str(folder))
        )  # fmt: skip
    pickles = [file for file in files if file.endswith(PICKLES)]
    if pickles:
        raise CheckpointError(
            Problem("E206", f"{name}: pickle weights are refused, they can run code", pickles[0],
                    "convert them to safetensors with save_pretrained", str(folder))
        )  # fmt: skip
    raise CheckpointError(
        Problem("E215", f"{name} has no weights", f"neither {SINGLE_FILE} nor {INDEX_FILE}",
                file=str(folder))
    )  # fmt: skip


def _indexed(folder: Path) -> dict[str, TensorHeader]:
    index_path = folder / INDEX_FILE
    where = str(index_path)
    index = read_json(index_path, "E217", "index unreadable")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(Problem("E217", "index has no weight_map", file=where))
    unsafe = sorted({str(file) for file in weight_map.values() if not _is_plain_name(file)})
    if unsafe:
        raise CheckpointError(
            Problem("E218", "unsafe path in the index", unsafe[0], "only plain file names", where)
        )
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (folder / file).exists()]
    if missing:
        found = f"{len(files)} named, missing: {', '.join(missing[:5])}"
        raise CheckpointError(Problem("E215", "shard missing", found, "download it again", where))
    problems: list[Problem] = []
    tensors: dict[str, TensorHeader] = {}
    for file in files:
        for tensor, header in read_header(folder / file).items():
            said = weight_map.get(tensor)
            if tensor in tensors:
                found = f"in {tensors[tensor].file} and in {file}"
                problems.append(Problem("E219", "tensor in two shards", found, "", where, field=tensor))
            elif said != file:
                found = f"index says {said or 'nothing'}, found in {file}"
                problems.append(
                    Problem("E219", "index and shard disagree", found, "", where, field=tensor)
                )
            else:
                tensors[tensor] = header
    reported = {problem.field for problem in problems}
    for tensor in weight_map:
        if tensor not in tensors and tensor not in reported:
            found = f"index says {weight_map[tensor]}"
            problems.append(Problem("E219", "tensor not in its shard", found, "", where, field=tensor))
    if problems:
        raise CheckpointError(problems)
    return {tensor: tensors[tensor] for tensor in weight_map}


def _is_plain_name(file: object) -> bool:
    if not isinstance(file, str) or not file.endswith(".safetensors"):
        return False
    return PurePosixPath(file).name == file and "\\" not in file and "\0" not in file
