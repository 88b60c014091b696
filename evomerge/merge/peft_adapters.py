"""Adapters merged into their base by PEFT itself, each once, into a folder that is then a full expert.

The base is built and filled as a live model is, in float32 on the CPU; PEFT puts the adapter on top and
merges it. What it changed is written in float32, unrounded as a factored adapter is, all else as the base
has it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.by_peft import Folder, base_before, foreseen, merge_key
from evomerge.checkpoint.folder import CheckpointFolder, open_folder, text_config
from evomerge.checkpoint.reader import MappedFiles, TensorReader
from evomerge.checkpoint.writer import CheckpointWriter, TensorSpec
from evomerge.errors import CheckpointError, Problem
from evomerge.failpoint import failpoint
from evomerge.files.staging import check_space, staged_folder
from evomerge.merge.binding import bind
from evomerge.merge.probe import answer, probe_inputs
from evomerge.merge.skeleton import allocate, build_skeleton

ADAPTERS_FOLDER = "adapters"
"""Where a campaign's cache has them."""

_SHARD_BYTES = 5 * 10**9
_SIDE_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
               "spiece.model", "sentencepiece.bpe.model", "tekken.json", "chat_template.*",
               "generation_config.json")  # fmt: skip
_TOLERANCE = 1e-3
"""Of the largest logit: how far PEFT's merge may be from the adapter it was made of, in float32."""


def merge_adapters(
    folders: Mapping[str, Folder], digest: Callable[[str], str], directory: Callable[[], Path]
) -> tuple[dict[str, Folder], dict[str, str]]:
    """The sources of a merge with every adapter that has no factors as the full model PEFT makes of it.

    Args:
        folders: opened sources by name.
        digest: gives the content digest of one of them; asked only for such adapters and their bases.
        directory: gives the folder where merged adapters are kept; asked only if there is one.

    Returns:
        The folders, and what each merged adapter depends on as a digest, by name.

    Raises:
        CheckpointError: E223, E229 or E234, what PEFT does not merge rightly.
        EnvironmentFault: E403 no room, E408 cannot be written, E410 PEFT is not installed.
    """
    merged: dict[str, Folder] = dict(folders)
    keys: dict[str, str] = {}
    for name, folder in folders.items():
        if isinstance(folder, AdapterFolder) and not folder.factored:
            digests = {each: digest(each) for each in (name, folder.base.name)}
            keys[name] = merge_key(folder, digests)
            merged[name] = _kept(folder, directory() / keys[name][:32])
    return merged, keys


def _kept(adapter: AdapterFolder, target: Path) -> CheckpointFolder:
    """The merge of an adapter in folder `target`; one process of a machine makes it where it is missing."""
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not target.is_dir():
                merge_adapter(adapter, target)
    return open_folder(target, adapter.name)


def merge_adapter(adapter: AdapterFolder, target: Path) -> None:
    """Write the model that PEFT makes of an adapter and its base; `target` appears whole or not at all."""
    full = foreseen(adapter)
    base = TensorReader(adapter.base)
    before = TensorReader(base_before(adapter))
    # The model while it is merged, and what is written of it.
    check_space(target, 8 * sum(header.elements for header in full.tensors.values()))
    with torch.no_grad(), torch.random.fork_rng([]), _quiet(), staged_folder(target) as staged:
        model = _filled(base, full, staged)
        failpoint("adapter.filled")
        merged = _merged(model, adapter)
        state = merged.state_dict(keep_vars=True)
        views = {b.tensor: b.view(state[b.parameter].detach().contiguous()) for b in bind(merged, full)}
        specs = []
        for tensor, view in views.items():
            header = before.folder.tensors[tensor]
            same = header.shape == tuple(view.shape) and torch.equal(
                before.read(tensor).to(view.dtype), view
            )
            specs.append(TensorSpec(tensor, header.dtype if same else "float32", tuple(view.shape)))
        writer = CheckpointWriter(staged, specs, _SHARD_BYTES)
        try:
            for spec in specs:
                writer.write(spec.name, views[spec.name].to(getattr(torch, spec.dtype)))
                failpoint("adapter.tensor")
            writer.close()
        finally:
            writer.abandon()
        (staged / "config.json").write_text(json.dumps(dict(full.config), indent=2), encoding="utf-8")
        for folder in dict.fromkeys((adapter.base.path, full.path)):
            for pattern in _SIDE_FILES:
                for path in folder.glob(pattern):
                    shutil.copyfile(path, staged / path.name)


def _filled(base: TensorReader, full: CheckpointFolder, directory: Path) -> Any:
    """The base in float32, on a file in `directory` that goes with it, and with as many rows as its merge."""
    model: Any = build_skeleton(base.folder, torch.float32)
    bindings = bind(model, base.folder)
    allocate(model, {"": "cpu"}, directory=directory)
    state = model.state_dict(keep_vars=True)
    for binding in bindings:
        binding.view(state[binding.parameter].detach()).copy_(base.read(binding.tensor))
    rows = text_config(full.config).get("vocab_size")
    if rows != text_config(base.folder.config).get("vocab_size"):
        # Every row comes from the adapter; see `foreseen`.
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def _merged(model: Any, adapter: AdapterFolder) -> Any:
    """The model with the adapter merged into it, which answers as the two did before.

    Raises:
        CheckpointError: E223 tensors that do not fit, E229 a head that is no longer the embedding, E234
            whatever of the adapter PEFT left out, and a merge that answers otherwise.
    """
    import peft

    def refuse(code: str, wrong: str, found: str = "") -> CheckpointError:
        todo = "merge it into its base where it was trained and give the full model"
        return CheckpointError(
            Problem(code, f"{adapter.name}: {wrong}", found, todo, str(adapter.path))
        )

    probe = probe_inputs(model)
    parts = adapter.own_head or adapter.config.get("ensure_weight_tying")
    embedding = model.get_input_embeddings() if parts else None
    # What `PeftModel.from_pretrained` does, which keeps to itself what it could not load.
    where = str(adapter.path)
    key_mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    try:
        config = peft.PeftConfig.from_pretrained(where)
        config.inference_mode = True
        tuned: Any = peft.PeftModel(model, config)
        loaded = tuned.load_adapter(where, "default", torch_device="cpu", key_mapping=key_mapping)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        code = "E223" if "size mismatch" in str(error) else "E234"
        found = next((line for line in lines if "size mismatch" in line), lines[0] if lines else "")
        raise refuse(code, f"PEFT cannot load this {adapter.kind} adapter", found) from error
    known = {field.name for field in dataclasses.fields(tuned.peft_config["default"])}
    dropped = [field for field, value in adapter.config.items() if value and field not in known]
    if dropped:
        raise refuse("E234", "the installed PEFT does not know a field of the adapter", dropped[0])
    for keys, wrong in (
        (_unknown(loaded.unexpected_keys, adapter), "PEFT finds no place for a tensor"),
        (loaded.missing_keys, "a tensor is missing that its config asks for"),
    ):
        if keys:
            raise refuse("E234", wrong, f"{keys[0]}, one of {len(keys)}")
    if not probe:
        raise refuse("E234", "PEFT's merge cannot be tried: it is not known what this model is given")
    before = answer(tuned, probe)
    if parts:
        _part(tuned, embedding)
    _merge_in_place(tuned, peft.tuners.tuners_utils.BaseTunerLayer)
    merged = tuned.merge_and_unload()
    head = merged.get_output_embeddings() if adapter.base.tied and not adapter.own_head else None
    if head is not None:
        if not torch.equal(merged.get_input_embeddings().weight, head.weight):
            raise refuse("E229", "its head is no longer the embedding, which the base ties it to")
        head.weight = merged.get_input_embeddings().weight
    after = answer(merged, probe)
    largest, apart = before.abs().max(), (after - before).abs().max()
    if not apart <= _TOLERANCE * largest:
        shown = f"logits differ by {apart:.2g}, the largest is {largest:.2g}"
        raise refuse("E234", f"PEFT's merge of this {adapter.kind} adapter answers otherwise", shown)
    return merged


def _part(tuned: Any, embedding: Any) -> None:
    """Give every module that shares the embedding's weights a copy of them.

    PEFT adds to weights where they lie, which would change a tied head with its embedding, or add twice to
    both; its own warning advises a copy.
    """
    shared = embedding.weight
    for module in tuned.modules():
        for name, parameter in module._parameters.items():
            if parameter is shared and module is not embedding:
                copied = torch.nn.Parameter(shared.detach().clone(), requires_grad=False)
                module._parameters[name] = copied


def _merge_in_place(tuned: Any, kind: Any) -> None:
    """Merge module by module, each result where its weights were: no more than one has a copy at a time."""
    for layer in [each for each in tuned.modules() if isinstance(each, kind)]:
        before = [(parameter, parameter.data) for parameter in layer.get_base_layer().parameters()]
        layer.merge()
        for parameter, place in before:
            if parameter.shape == place.shape and parameter.data_ptr() != place.data_ptr():
                parameter.data = place.copy_(parameter.data)


def _unknown(keys: Sequence[str], adapter: AdapterFolder) -> list[str]:
    """Tensors PEFT did not load, without second copies: it stores saved embeddings under two names."""
    files = MappedFiles(adapter.path)

    def copied(key: str) -> bool:
        own = adapter.headers.get(key)
        other = adapter.headers.get(key.replace(".modules_to_save.", "."))
        if own is None or other is None or own == other:
            return False
        return torch.equal(files.tensor(own), files.tensor(other))

    return [key for key in keys if not copied(key)]


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT and transformers warn of what was checked here, or is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
