"""Keys of random masks. Torch-free, so that plans can be made without torch."""

from __future__ import annotations

import hashlib


def mask_key(seed: int, expert: str, tensor: str) -> int:
    """The 64-bit key of the mask of one tensor (by its name in the source) of one expert."""
    text = f"{seed}\0{expert}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
