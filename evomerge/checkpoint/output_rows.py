"""Which axis of a tensor counts outputs, as far as names and shapes tell: for weights by output row.

Linear layers and embeddings are stored as [out, in] and convolutions as [out, in, ...]. Layers of the class
`Conv1D` (GPT-2 and its kin) and transposed convolutions are stored as [in, out, ...], and their bias is as
long as the second axis. The experts of a mixture may be stacked, [experts, ...]. No list of architectures.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoint.header import TensorHeader


def rows_by_place(tensors: Mapping[str, TensorHeader], places: Mapping[str, str]) -> dict[str, int]:
    """Each place with a matrix to the number of its output rows; 1 where these are not told apart.

    They are where the first axis of all its matrices counts outputs, and is of one length.
    """
    by_input = _stored_by_input(tensors)
    counts: dict[str, set[int]] = {}
    for tensor, header in tensors.items():
        if len(header.shape) > 1 and header.is_float:
            told = tensor not in by_input and not _is_stacked(tensor, header)
            counts.setdefault(places[tensor], set()).add(header.shape[0] if told else 1)
    return {place: own.pop() if len(own) == 1 else 1 for place, own in counts.items()}


def _stored_by_input(tensors: Mapping[str, TensorHeader]) -> set[str]:
    """The tensors whose first axis counts inputs.

    A square matrix with a bias does not tell: it goes by the other matrices with one.
    """
    found, square, matrices = set(), set(), False
    for tensor, header in tensors.items():
        module, _, last = tensor.rpartition(".")
        bias = tensors.get(f"{module}.bias")
        if last != "weight" or bias is None or len(header.shape) < 2:
            continue
        if bias.shape != header.shape[1:2]:
            continue
        if header.shape[0] != header.shape[1]:
            found.add(tensor)
            matrices |= len(header.shape) == 2
        elif len(header.shape) == 2:
            square.add(tensor)
    return found | square if matrices else found


def _is_stacked(tensor: str, header: TensorHeader) -> bool:
    """Whether the first axis counts experts, of their matrices or of their biases."""
    if len(header.shape) == 3:
        return "conv" not in tensor.lower()
    return tensor.endswith("bias")
