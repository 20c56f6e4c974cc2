"""Blocks of the paged, quantized KV cache as rows of fp16: ``code * scale + bias``, rounded once.

The product is exact in fp32, so the rows are those of ``dequantize_kv`` in fp16 bit for bit, and
depend on the cache alone. Rounding moves an element by ``2 ** -11`` of itself at most: a keyed
score by ``2 ** -11`` of the sum of its terms' magnitudes, as in any attention over an fp16 cache,
and some 60 times less than what 4 bits cost (half a step, ``range / 30``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.attention.prefill_plan import BLOCK
from qoq.kernels.gpu.sizes import next_power_of_2
from qoq.kernels.kv_cache import FP16_MAX, KvCache, KvFormat


def dequantize_blocks(
    cache: KvCache, block_tables: Tensor, blocks: Tensor, heads: range, fmt: KvFormat, out: Tensor
) -> None:
    """Keys and values of ``heads`` into ``out`` fp16 ``[len(heads) * 2 * rows, WIDTH]``.

    ``blocks`` are those of a ``PrefillPlan`` and name the rows. Columns past ``head_dim``, and rows
    past a request's tokens, become 0. A block id outside the cache reads some other block.
    """
    _dequantize_kernel[(blocks.shape[0], len(heads))](
        cache.blocks,
        cache.blocks.view(torch.float16),
        block_tables,
        blocks,
        out,
        cache.blocks.shape[0],
        block_tables.shape[1],
        heads.start,
        blocks.shape[0] * BLOCK,
        BITS=fmt.bits,
        D=fmt.head_dim,
        COLUMNS=next_power_of_2(fmt.code_width),
        WIDTH=out.shape[1],
        HEADS=fmt.num_kv_heads,
        TOKENS=BLOCK,
        FP16_MAX=FP16_MAX,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["NUM_BLOCKS", "TABLE_WIDTH", "first_head"])
def _dequantize_kernel(
    code_ptr,
    scale_ptr,
    table_ptr,
    block_ptr,
    out_ptr,
    NUM_BLOCKS,
    TABLE_WIDTH,
    first_head,
    num_rows,
    BITS: tl.constexpr,
    D: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    FP16_MAX: tl.constexpr,
):
    # In bytes: a token's row, a block's keys (or values), a block.
    ROW: tl.constexpr = D * BITS // 8
    PLANE: tl.constexpr = HEADS * TOKENS * ROW
    SIZE: tl.constexpr = 2 * PLANE + 8 * HEADS * TOKENS
    entry = block_ptr + tl.program_id(0) * 4
    request = tl.load(entry).to(tl.int64)
    index = tl.load(entry + 1)
    num_tokens = tl.load(entry + 2)
    row = tl.load(entry + 3)
    has_block = (num_tokens > 0) & (index < TABLE_WIDTH)
    block = tl.load(table_ptr + request * TABLE_WIDTH + index, mask=has_block, other=0)
    block = tl.minimum(tl.maximum(block, 0), NUM_BLOCKS - 1).to(tl.int64)
    head = first_head + tl.program_id(1)

    token = tl.arange(0, TOKENS)
    column = tl.arange(0, COLUMNS)[None, :]
    is_live = token < num_tokens
    in_row = column < ROW
    for which in tl.static_range(2):
        codes = code_ptr + block * SIZE + (which * PLANE + head * TOKENS * ROW)
        w = tl.load(codes + token[:, None] * ROW + column, mask=is_live[:, None] & in_row, other=0)
        place = PLANE + (which * HEADS + head) * (2 * TOKENS) + token
        scales = scale_ptr + block * (SIZE // 2) + place
        scale = tl.load(scales, mask=is_live, other=0.0).to(tl.float32)[:, None]
        bias = tl.load(scales + TOKENS, mask=is_live, other=0.0).to(tl.float32)[:, None]
        first_row = (tl.program_id(1) * 2 + which).to(tl.int64) * num_rows + row
        out = out_ptr + (first_row + token)[:, None] * WIDTH + column
        if BITS == 4:
            tl.store(out, _values(w & 15, scale, bias, FP16_MAX), mask=in_row)
            tl.store(out + D // 2, _values(w >> 4, scale, bias, FP16_MAX), mask=in_row)
        else:
            tl.store(out, _values(w, scale, bias, FP16_MAX), mask=in_row)
        if WIDTH > D:
            past = tl.arange(0, WIDTH)[None, :]
            rest = out_ptr + (first_row + token)[:, None] * WIDTH + past
            zeros = tl.zeros((TOKENS, WIDTH), tl.float16)
            tl.store(rest, zeros, mask=past >= D)


@triton.jit
def _values(codes, scale, bias, FP16_MAX: tl.constexpr):
    """Finite whatever the block holds: 0 times an infinity in a masked place would be NaN."""
    x = codes.to(tl.float32) * scale + bias
    return tl.minimum(tl.maximum(x, -FP16_MAX), FP16_MAX).to(tl.float16)
