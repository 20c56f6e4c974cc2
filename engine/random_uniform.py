"""A counter-based random number: Philox 4x32-10 (Salmon et al., SC'11), keyed by seed and position.

There is no state to advance, so a token's number depends on nothing but its own request's seed and
its place in the sequence: not on the batch, the chunking, or a preemption in between.
"""

from __future__ import annotations

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    first, second, _, _ = philox((position & _MASK, position >> 32 & _MASK, 0, 0), seed)
    return ((first << 21) ^ (second >> 11)) / 2**53


def philox(counter: tuple[int, int, int, int], seed: int) -> tuple[int, int, int, int]:
    """Ten rounds on four 32-bit words; the key is the low 64 bits of ``seed``."""
    a, b, c, d = counter
    key = [seed & _MASK, seed >> 32 & _MASK]
    for _ in range(10):
        low, high = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (high >> 32) ^ b ^ key[0], high & _MASK, (low >> 32) ^ d ^ key[1], low & _MASK
        key = [(k + w) & _MASK for k, w in zip(key, _WEYL, strict=True)]
    return a, b, c, d
