"""Random masks from counters: the same on any device, in any block or shard order, without storage.

Element `i` of a tensor has the number `u(key, i)` in [0, 2**31), and is kept iff `u < p * 2**31`. Masks
of one key are therefore nested in `p`. `u` is the top 31 bits of a keyed variant of the two-round
multiply-xorshift mixer "lowbias32" (C. Wellons, Prospecting for hash functions, 2018); half of the key
enters before the first and half between the rounds, so that masks of different keys are no shifted or
xor-ed copies of each other.
"""

from __future__ import annotations

import torch

FIRST_FACTOR = 0x7FEB352D
SECOND_FACTOR = 0x846CA68B
_WORD = 1 << 32


def signed_word(word: int) -> int:
    """The int32 with the lowest 32 bits of `word`."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


def keep_limit(probability: float) -> int:
    """The integer that `u` is compared with."""
    return min(round(probability * 2**31), 2**31 - 1)


def apply_mask(
    values: torch.Tensor,
    key: int,
    probability: float,
    start: int,
    counter: torch.Tensor,
    bits: torch.Tensor,
    spare: torch.Tensor,
) -> None:
    """Zero the dropped elements of `values` in place.

    Args:
        values: float32 [n], elements `start` to `start + n` of their flattened tensor.
        key: 64 bits, from `keys.mask_key`.
        probability: of keeping an element.
        start: index of the first element; a block must not cross a multiple of 2**32.
        counter: int32 [n], 0, 1, 2, ...
        bits: int32 [n], scratch.
        spare: int32 [n], scratch.
    """
    draw(key, start, counter, bits, spare)
    bits.sub_(keep_limit(probability))
    _drop_where_positive(values, bits)


def apply_ranked_mask(
    values: torch.Tensor,
    key: int,
    limits: torch.Tensor,
    start: int,
    counter: torch.Tensor,
    bits: torch.Tensor,
    spare: torch.Tensor,
) -> None:
    """The same with a limit for each element: int32 [n], as `keep_limit` gives."""
    draw(key, start, counter, bits, spare)
    bits.sub_(limits)
    _drop_where_positive(values, bits)


def draw(key: int, start: int, counter: torch.Tensor, bits: torch.Tensor, spare: torch.Tensor) -> None:
    """The numbers `u(key, start ...)` into `bits`."""
    low_key, high_key = key % _WORD, key >> 32
    block = start >> 32
    torch.add(counter, signed_word(start), out=bits)
    bits.bitwise_xor_(signed_word(low_key ^ (block * 0x9E3779B9)))
    torch.bitwise_right_shift(bits, 16, out=spare)
    spare.bitwise_and_(0xFFFF)
    bits.bitwise_xor_(spare)
    bits.mul_(FIRST_FACTOR)
    bits.add_(signed_word(high_key))
    torch.bitwise_right_shift(bits, 15, out=spare)
    spare.bitwise_and_(0x1FFFF)
    bits.bitwise_xor_(spare)
    bits.mul_(signed_word(SECOND_FACTOR))
    bits.bitwise_right_shift_(1)
    bits.bitwise_and_(0x7FFFFFFF)


def _drop_where_positive(values: torch.Tensor, bits: torch.Tensor) -> None:
    # Integer arithmetic on the sign bit rather than comparisons: boolean tensors cost five times as
    # much.
    bits.bitwise_right_shift_(31)
    values.view(torch.int32).bitwise_and_(bits)
