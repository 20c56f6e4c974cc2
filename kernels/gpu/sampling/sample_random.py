"""The numbers of ``engine/random_uniform.py`` on a GPU: Philox 4x32-10, bit for bit."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def random_numbers_triton(seeds: Tensor, positions: Tensor) -> Tensor:
    """Float64 ``[R]`` in [0, 1), of int64 ``[R]`` each: what the sampler draws with."""
    numbers = torch.empty(seeds.shape, dtype=torch.float64, device=seeds.device)
    if seeds.numel():
        _numbers_kernel[(seeds.numel(),)](seeds, positions, numbers, num_warps=1)
    return numbers


@triton.jit
def random_bits(seed, position):
    """53 random bits as int64, from a seed and a position (scalars, int64)."""
    k0, k1 = seed.to(tl.uint32).to(tl.uint64), (seed >> 32).to(tl.uint32).to(tl.uint64)
    a, b = position.to(tl.uint32).to(tl.uint64), (position >> 32).to(tl.uint32).to(tl.uint64)
    c, d = a * 0, a * 0
    for _ in tl.static_range(10):
        low, high = a * 0xD2511F53, c * 0xCD9E8D57
        a, b = ((high >> 32) ^ b ^ k0) & 0xFFFFFFFF, high & 0xFFFFFFFF
        c, d = ((low >> 32) ^ d ^ k1) & 0xFFFFFFFF, low & 0xFFFFFFFF
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return ((a << 21) ^ (b >> 11)).to(tl.int64)


@triton.jit
def _numbers_kernel(seed_ptr, position_ptr, number_ptr):
    row = tl.program_id(0)
    bits = random_bits(tl.load(seed_ptr + row), tl.load(position_ptr + row))
    tl.store(number_ptr + row, bits.to(tl.float64) * 2.0**-53)
