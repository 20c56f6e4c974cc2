"""Codes on their way to the L2 cache before a kernel may read them.

A prefetch brings no value to any thread, so it need not wait for the kernel in front, during which
memory would be idle. What that one still writes goes to the L2 cache too.
"""

from __future__ import annotations

import triton
import triton.language as tl

# One a lane: keys, values, and the scales of either, of up to eight tiles.
LANES = tl.constexpr(32)


@triton.jit
def fetch_early(
    word_ptr,
    table,
    first,
    last,
    head,
    NUM_BLOCKS,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    """As many as ``TILES`` tiles of ``first`` to ``last``, whose blocks are in ``table``."""
    start, size = ranges(table, first, last, head, NUM_BLOCKS, ROW, HEADS, TILE, TILES)
    tl.inline_asm_elementwise(
        """{
        .reg .pred p;
        setp.ne.s32 p, $2, 0;
        @p cp.async.bulk.prefetch.L2.global [$1], $2;
        mov.b32 $0, 0;
        }""",
        "=r,l,r",
        [(word_ptr + start).to(tl.int64), size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def ranges(
    table,
    first,
    last,
    head,
    NUM_BLOCKS,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Where each lane's part begins, in words of 16 bits, and its bytes, 0 where it has none."""
    PLANE: tl.constexpr = HEADS * TILE * ROW
    BLOCK: tl.constexpr = 2 * PLANE + 4 * HEADS * TILE
    lane = tl.arange(0, LANES)
    tile = first + lane // 4
    is_tile = (lane // 4 < TILES) & (tile < last)
    # Past the L1 cache, where it would outlive a change of the table.
    block = tl.load(table + tile, mask=is_tile, other=0, cache_modifier=".cg")
    base = tl.minimum(tl.maximum(block, 0), NUM_BLOCKS - 1).to(tl.int64) * BLOCK
    line = lane % 2 * HEADS + head
    is_codes = lane % 4 < 2
    start = tl.where(is_codes, line * (TILE * ROW), 2 * PLANE + line * (2 * TILE))
    size = tl.where(is_codes, 2 * TILE * ROW, 4 * TILE)
    return base + start, tl.where(is_tile, size, 0)
