"""Which tensors have a weight for each row of their first axis: those where it counts outputs."""

from __future__ import annotations

import pytest

from evomerge.checkpoint.header import TensorHeader
from evomerge.checkpoint.output_rows import rows_by_place


def rows_of(tensors: str) -> dict[str, int]:
    """Of tensors as `name 2x3`, each module a place of its own."""
    headers, places = {}, {}
    for line in tensors.split(", "):
        name, shape = line.split()
        axes = tuple(map(int, shape.split("x")))
        headers[name] = TensorHeader("model.safetensors", "float32", axes, 0, 0)
        places[name] = name.removesuffix(".weight").removesuffix(".bias")
    return rows_by_place(headers, places)


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ("q.weight 8x8, q.bias 8, k.weight 4x8, k.bias 4", {"q": 8, "k": 4}),
        ("up.weight 12x8, norm.weight 8", {"up": 12}),
        ("c_attn.weight 8x24, c_attn.bias 24, c_proj.weight 8x8, c_proj.bias 8", {"c_attn": 1, "c_proj": 1}),
        ("c_fc.weight 8x32, c_fc.bias 32, head.weight 50x8, score.weight 8x8",
         {"c_fc": 1, "head": 50, "score": 8}),
        ("patch.weight 8x3x4x4, patch.bias 8, mixer.conv1d.weight 16x1x4, mixer.conv1d.bias 16",
         {"patch": 8, "mixer.conv1d": 16}),
        ("up.weight 6x8x2x2, up.bias 8, q.weight 8x8, q.bias 8", {"up": 1, "q": 8}),
        ("experts.gate_up_proj 4x8x24, experts.gate_up_proj_bias 4x24, router.weight 4x8, router.bias 4",
         {"experts.gate_up_proj": 1, "experts.gate_up_proj_bias": 1, "router": 4}),
        ("input_linear.weight 4x24x8", {"input_linear": 1}),
    ],
)  # fmt: skip
def test_rows_of_outputs(tensors: str, rows: dict[str, int]) -> None:
    assert rows_of(tensors) == rows


def test_a_place_whose_matrices_differ_has_none() -> None:
    shape = {"wte.weight": (50, 8), "wpe.weight": (16, 8), "head.weight": (50, 8), "bias.bias": (50,)}
    headers = {n: TensorHeader("model.safetensors", "float32", axes, 0, 0) for n, axes in shape.items()}
    places = {"wte.weight": "embed", "wpe.weight": "embed", "head.weight": "head", "bias.bias": "head"}
    assert rows_by_place(headers, places) == {"embed": 1, "head": 50}
