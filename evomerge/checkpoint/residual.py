"""Which tensors write into the residual stream, so that a layer can be scaled by its weights.

A layer that adds `f(x) + g(x)` to the residual adds `s (f + g)` if the last linear maps of `f` and `g`
are scaled by `s`. That holds only where nothing normalises their output on its way.
"""

from __future__ import annotations

from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.errors import CheckpointError, Problem

_WRITERS = {
    "attn": ("o_proj", "out_proj", "c_proj", "dense", "wo"),
    "mlp": ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2"),
}


def residual_writers(folder: CheckpointFolder, layer: int) -> frozenset[str]:
    """Names of the tensors (weights and biases) of a layer that write into the residual stream.

    Raises:
        CheckpointError: E234 if the layer normalises what it adds (more than two norms of its own), or
            if the writers of its attention or its MLP cannot be told.
    """
    places = folder.places
    mine = {
        tensor: place.split(".")[2]
        for tensor, place in places.items()
        if place.startswith(f"layers.{layer}.")
    }
    block_norms = {
        tensor.rsplit(".", 1)[0]
        for tensor, module in mine.items()
        # A norm of the block itself stands directly in the layer: `input_layernorm.weight`.
        if module == "norm" and (folder.names.split(tensor) or (0, ""))[1].count(".") == 1
    }
    post_norm = any("post_feedforward" in norm for norm in block_norms)
    if len(block_norms) > 2 or post_norm:
        raise _refused(folder, layer, f"it has norms {', '.join(sorted(block_norms))}")
    writers: set[str] = set()
    for module, words in _WRITERS.items():
        found = {
            tensor
            for tensor, place in mine.items()
            if place == module and tensor.split(".")[-2] in words
        }
        if not found:
            raise _refused(folder, layer, f"no output projection is known in its {module}")
        writers |= found
    return frozenset(writers)


def _refused(folder: CheckpointFolder, layer: int, found: str) -> CheckpointError:
    return CheckpointError(
        Problem("E234", f"layer {layer} cannot be scaled by its weights", found, "use scale 1",
                str(folder.path))
    )  # fmt: skip
