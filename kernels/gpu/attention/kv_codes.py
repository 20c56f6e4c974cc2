"""Codes of the quantized cache as operands of the matrix unit, without arithmetic on elements.

Two 16-bit words of a cache row lie in a register. A mask leaves one code in each half, and such a
half is the fp16 subnormal ``code * 2 ** -24``: its products are exact, and the power of two leaves
with the scale. Part ``i`` of the four holds dimensions ``2 j + i // 2 + i % 2 * D / 2``; of 4 bits
the odd parts come 16 fold.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_parts(rows, columns, mask, BITS: tl.constexpr, D: tl.constexpr, ASM: tl.constexpr):
    """Four fp16 tensors of uint16 ``rows``, pointers ``[1, T]``, and ``columns`` ``[WIDTH, 1]``."""
    if BITS == 4:
        w = tl.load(rows + columns, mask=mask, other=0)
        a, b, c, d = _split_nibbles(w, ASM)
    else:
        low = tl.load(rows + columns, mask=mask, other=0)
        high = tl.load(rows + D // 4 + columns, mask=mask, other=0)
        a, c = _split_bytes(low, ASM)
        b, d = _split_bytes(high, ASM)
    return a, b, c, d


@triton.jit
def _split_nibbles(w, ASM: tl.constexpr):
    if not ASM:
        t = w >> 8
        a = (w & 0xF).to(tl.float16, bitcast=True)
        b = (w & 0xF0).to(tl.float16, bitcast=True)
        c = (t & 0xF).to(tl.float16, bitcast=True)
        d = (t & 0xF0).to(tl.float16, bitcast=True)
        return a, b, c, d
    a = _masked(w, "and.b32 $0, $1, 0x000F000F;")
    b = _masked(w, "and.b32 $0, $1, 0x00F000F0;")
    c = _masked(w, "{ .reg .b32 t; shr.u32 t, $1, 8; and.b32 $0, t, 0x000F000F; }")
    d = _masked(w, "{ .reg .b32 t; shr.u32 t, $1, 8; and.b32 $0, t, 0x00F000F0; }")
    return a, b, c, d


@triton.jit
def _masked(w, INSTRUCTIONS: tl.constexpr):
    """The fp16 that are left of pairs of words. One result each: of several Triton 3.8 takes the
    first from registers, the others by way of shared memory.
    """
    return tl.inline_asm_elementwise(
        INSTRUCTIONS, "=r,r", [w], dtype=tl.float16, is_pure=True, pack=2
    )


@triton.jit
def _split_bytes(w, ASM: tl.constexpr):
    if not ASM:
        return (w & 0xFF).to(tl.float16, bitcast=True), (w >> 8).to(tl.float16, bitcast=True)
    low = _masked(w, "and.b32 $0, $1, 0x00FF00FF;")
    return low, _masked(w, "{ .reg .b32 t; shr.u32 t, $1, 8; and.b32 $0, t, 0x00FF00FF; }")
