"""Random masks from counters: the same on any device, in any block or shard order, without storage.

Element `i` of a tensor has the number `u(key, i)` in [0, 2**31), and is kept iff `u < p * 2**31`. Masks
of one key are therefore nested in `p`. `u` is the top 31 bits of a keyed variant of the two-round
multiply-xorshift mixer "lowbias32" (C. Wellons, Prospecting for hash functions, 2018); half of the key
enters before the first and half between the rounds, so that masks of different keys are no shifted or
xor-ed copies of each other.
"""

from __future__ import annotations

import torch

_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B
_WORD = 1 << 32


def _signed(word: int) -> int:
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

    Integer arithmetic on the sign bit rather than comparisons: boolean tensors cost five times as much.

    Args:
        values: float32 [n], elements `start` to `start + n` of their flattened tensor.
        key: 64 bits, from `keys.mask_key`.
        probability: of keeping an element.
        start: index of the first element; a block must not cross a multiple of 2**32.
        counter: int32 [n], 0, 1, 2, ...
        bits: int32 [n], scratch.
        spare: int32 [n], scratch.
    """
    low_key, high_key = key % _WORD, key >> 32
    block = start >> 32
    torch.add(counter, _signed(start), out=bits)
    bits.bitwise_xor_(_signed(low_key ^ (block * 0x9E3779B9)))
    torch.bitwise_right_shift(bits, 16, out=spare)
    spare.bitwise_and_(0xFFFF)
    bits.bitwise_xor_(spare)
    bits.mul_(_FIRST)
    bits.add_(_signed(high_key))
    torch.bitwise_right_shift(bits, 15, out=spare)
    spare.bitwise_and_(0x1FFFF)
    bits.bitwise_xor_(spare)
    bits.mul_(_signed(_SECOND))
    bits.bitwise_right_shift_(1)
    bits.bitwise_and_(0x7FFFFFFF)
    bits.sub_(keep_limit(probability))
    bits.bitwise_right_shift_(31)
    values.view(torch.int32).bitwise_and_(bits)
