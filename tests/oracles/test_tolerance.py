"""The comparison of `make oracles` can fail."""

import torch

from tests.oracles.models import without_ties
from tests.oracles.tolerance import ITERATIVE, Distance, steps


def pair(dtype: torch.dtype, at: int, by: float) -> tuple[dict[str, torch.Tensor], ...]:
    """A tensor from 1 down to 2**-20, and a copy with one element moved."""
    left = torch.exp2(-torch.arange(21.0))
    right = left.clone()
    right[at] += by
    return {"t": left.to(dtype)}, {"t": right.to(dtype)}


def found(distance: Distance, dtype: torch.dtype, at: int, by: float) -> Distance:
    distance.add(*pair(torch.bfloat16, at, by if dtype == torch.bfloat16 else 0.0))
    distance.add(*pair(torch.float32, at, by if dtype == torch.float32 else 0.0))
    return distance


def test_float32_is_held_to_the_bound() -> None:
    assert found(Distance(), torch.float32, 5, 9e-7).is_sound
    assert not found(Distance(), torch.float32, 5, 2e-6).is_sound
    assert found(Distance(ITERATIVE), torch.float32, 5, 9e-6).is_sound


def test_bfloat16_is_held_to_one_step_but_near_zero() -> None:
    assert found(Distance(), torch.bfloat16, 1, 2**-8).steps == 1
    assert not found(Distance(), torch.bfloat16, 1, 2**-7).is_sound
    # Of 2**-20 a step is 7e-9, smaller than the bound: there only the bound counts.
    assert found(Distance(), torch.bfloat16, 20, 1e-6).is_sound
    assert not found(Distance(), torch.bfloat16, 20, 3e-6).is_sound


def test_nothing_compared_is_not_sound() -> None:
    assert not Distance().is_sound
    distance = Distance()
    distance.add({"a": torch.ones(2)}, {"b": torch.ones(2)})
    assert "other tensors" in distance.error
    distance = Distance()
    distance.add({"a": torch.ones(2)}, {"a": torch.ones(3)})
    assert "[2]" in distance.error


def test_steps_are_counted_across_zero() -> None:
    tiny = torch.tensor([1, -32767], dtype=torch.int16).view(torch.bfloat16)
    assert steps(tiny[:1], tiny[1:]).tolist() == [2]


def test_models_have_no_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(64, 32, generator=generator)
    values = (base + 0.01 * torch.randint(-2, 3, base.shape, generator=generator)).clone()
    apart = without_ties(values, base, 1e-4, generator)
    assert (apart - values).abs().max() < 2e-3
    sizes = (apart - base).abs().flatten()
    assert len(sizes.unique()) == len(sizes)
