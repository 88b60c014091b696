"""Heads that stay beside a merge: read from their models, bound to the parameters of a live one, written.

Beside an export a head is `heads/NAME.safetensors`, its tensors under their checkpoint names, and
`heads/NAME.json`, what its model's config says of its classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.adapter import AdapterFolder
from evomerge.checkpoint.folder import CheckpointFolder, read_json
from evomerge.checkpoint.model_form import CLASS_FIELDS, head_tensors
from evomerge.checkpoint.reader import TensorReader
from evomerge.evaluators.evaluator import Head
from evomerge.merge.binding import Binding

HEADS_FOLDER = "heads"


class Heads:
    """The heads of some models, as they are stored beside a merge of them.

    Args:
        folders: by name; adapters have no head of their own.
        dtype: the storage dtype of the merge, to which heads are rounded too.
    """

    def __init__(self, folders: Mapping[str, CheckpointFolder | AdapterFolder], dtype: str) -> None:
        self.tensors: dict[str, dict[str, torch.Tensor]] = {}
        self.classes: dict[str, dict[str, Any]] = {}
        kind: torch.dtype = getattr(torch, dtype)
        for name, folder in folders.items():
            if isinstance(folder, CheckpointFolder):
                reader = TensorReader(folder)
                self.tensors[name] = {t: reader.read(t).to(kind) for t in head_tensors(folder)}
                self.classes[name] = {k: folder.config[k] for k in CLASS_FIELDS if k in folder.config}
        self._bound: dict[tuple[torch.device, torch.dtype], dict[str, Head]] = {}

    @staticmethod
    def beside(folder: Path) -> Heads:
        """Those that an export holds; none, where it has no such folder.

        Raises:
            CheckpointError: E202, a head without what its config says.
        """
        found = Heads({}, "float32")
        for file in sorted((folder / HEADS_FOLDER).glob("*.safetensors")):
            found.tensors[file.stem] = load_file(file)
            wrong = "a head without its classes"
            found.classes[file.stem] = read_json(file.with_suffix(".json"), "E202", wrong)
        return found

    def write(self, folder: Path) -> None:
        """Write them below an export."""
        if not self.tensors:
            return
        (folder / HEADS_FOLDER).mkdir()
        for name, tensors in self.tensors.items():
            path = folder / HEADS_FOLDER / f"{name}.safetensors"
            whole = {tensor: value.contiguous() for tensor, value in tensors.items()}
            save_file(whole, path, metadata={"format": "pt"})
            text = json.dumps(self.classes[name], indent=2, ensure_ascii=False)
            path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")

    def on(
        self, bindings: Sequence[Binding], device: torch.device, dtype: torch.dtype
    ) -> Mapping[str, Head]:
        """Them as parameters of a live model.

        Args:
            bindings: checkpoint tensor to parameter, of that model.
            device: the model's.
            dtype: the model's.
        """
        if not self.tensors:
            return {}
        if (device, dtype) not in self._bound:
            parameters = {binding.tensor: binding.parameter for binding in bindings}
            self._bound[device, dtype] = {
                name: Head(
                    {parameters[t]: value.to(device, dtype) for t, value in tensors.items()},
                    _labels(self.classes[name]),
                )
                for name, tensors in self.tensors.items()
            }
        return self._bound[device, dtype]


def _labels(classes: Mapping[str, Any]) -> dict[str, int]:
    """Class name to number; `LABEL_N` where the config names none (transformers leaves two out)."""
    named = classes.get("id2label")
    if isinstance(named, dict):
        return {str(name): int(number) for number, name in named.items()}
    count = int(classes.get("num_labels", 2))
    return {f"LABEL_{number}": number for number in range(count)}
