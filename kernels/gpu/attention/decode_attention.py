"""Attention of one new token a request over the paged, quantized KV cache, on GPUs from sm_80 on.

A program walks the tiles (blocks of the cache) of one item of the plan, with the query heads that
share a kv head as rows. Scales never touch elements: ``q . (c s + b)`` is
``(q . c) s + sum(q) b``, and likewise for the values (QServe, arXiv 2405.04532, section 5.3).

Within a partition the softmax is online. Partitions fold in order into the item's partial, and
``merge`` folds items in the same way, so bits depend on a request's context alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.attention.decode_plan import PARTITION, TILE, DecodePlan
from qoq.kernels.gpu.attention.early_fetch import fetch_early
from qoq.kernels.gpu.attention.kv_codes import load_parts
from qoq.kernels.gpu.attention.partial_softmax import CODE_UNIT, LOG2_E, MASKED, fold, weigh
from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.sizes import next_power_of_2
from qoq.kernels.kv_cache import KvCache, KvFormat

# The matrix unit's smallest side; query heads that share a kv head fill rows of it.
ROWS = 16
# Items past this many programs are taken in turns: 16 of one warp on each of 132 SMs.
NUM_PROGRAMS = 2112


class DecodeConfig(NamedTuple):
    """How a program runs. One setting serves all batches: bits may depend on ``num_warps``.

    ``max_registers`` of a thread decide how many programs an SM holds. ``early_tiles`` of an item
    are fetched while the kernel in front still runs, where kernels overlap.
    """

    num_warps: int
    num_stages: int
    max_registers: int | None = None
    early_tiles: int = 0

    @classmethod
    def of(cls, fmt: KvFormat, num_heads: int) -> DecodeConfig:
        if fmt.head_dim > 128:
            return cls(4, 4)
        # Ten programs an SM, by shared memory; 200 registers let that many in.
        registers = 200 if num_heads <= 8 * fmt.num_kv_heads else None
        return cls(1, 3, max_registers=registers, early_tiles=2)


def decode_partials(
    q: Tensor,
    cache: KvCache,
    block_tables: Tensor,
    plan: DecodePlan,
    fmt: KvFormat,
    softmax_scale: float,
    config: DecodeConfig | None = None,
) -> None:
    """Partial attention of ``q`` ``[R, Hq, D]``, item by item, into ``plan.partials``.

    ``block_tables`` int32 ``[R, max_blocks]``. A block id outside the cache reads some other block.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(q, cache, block_tables, plan, fmt)
    config = config or DecodeConfig.of(fmt, q.shape[1])
    _decode_kernel[(min(NUM_PROGRAMS, plan.items.shape[0] * fmt.num_kv_heads),)](
        q,
        cache.blocks.view(torch.uint16),
        cache.blocks.view(torch.float16),
        block_tables,
        plan.count,
        plan.items,
        plan.partials,
        plan.stats,
        cache.blocks.shape[0],
        block_tables.stride(0),
        q.stride(0),
        softmax_scale * LOG2_E,
        BITS=fmt.bits,
        D=fmt.head_dim,
        WIDTH=next_power_of_2(fmt.head_dim // 4),
        HEADS=fmt.num_kv_heads,
        GROUP=q.shape[1] // fmt.num_kv_heads,
        TILE=TILE,
        ROWS=8 if q.shape[1] <= 8 * fmt.num_kv_heads else 16,
        TILES=PARTITION // TILE,
        STAGES=config.num_stages,
        EARLY_TILES=config.early_tiles,
        ASM=q.is_cuda,
        num_warps=config.num_warps,
        maxnreg=config.max_registers,
        **overlap_options(q.device),
    )


@triton.jit
def _first_rows(x, ROWS: tl.constexpr):
    """The first rows of ``[16, T]``, by choice of registers."""
    if ROWS == 8:
        x, _ = tl.split(tl.permute(tl.reshape(x, (2, 8, x.shape[1])), (1, 2, 0)))
    return x


@triton.jit
def _fold_rows(top, total, offset, a, b, c, d, top_2, total_2, offset_2, a_2, b_2, c_2, d_2):
    both, keep, gain = weigh(top, top_2)
    total = fold(total, keep, total_2, gain)
    offset = fold(offset, keep, offset_2, gain)
    keep = tl.broadcast_to(keep[None, :], a.shape)
    gain = tl.broadcast_to(gain[None, :], a.shape)
    a = fold(a, keep, a_2, gain)
    b = fold(b, keep, b_2, gain)
    c = fold(c, keep, c_2, gain)
    d = fold(d, keep, d_2, gain)
    return both, total, offset, a, b, c, d


@triton.jit
def _decode_kernel(
    q_ptr,
    word_ptr,
    scale_ptr,
    table_ptr,
    count_ptr,
    item_ptr,
    partial_ptr,
    stat_ptr,
    NUM_BLOCKS,
    stride_table,
    stride_q,
    score_scale,
    BITS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
    EARLY_TILES: tl.constexpr,
    ASM: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    # In units of 16 bits: a token's row, a block's keys (or values), where its scales begin.
    ROW: tl.constexpr = D * BITS // 16
    PLANE: tl.constexpr = HEADS * TILE * ROW
    BLOCK: tl.constexpr = 2 * PLANE + 4 * HEADS * TILE
    ODD: tl.constexpr = 0.0625 if BITS == 4 else 1.0

    row = tl.arange(0, 16)
    column = tl.arange(0, WIDTH)[None, :]
    token = tl.arange(0, TILE)
    in_group = (row < GROUP)[:, None] & (column < D // 4)
    part = tl.arange(0, WIDTH)[:, None]
    in_part = part < D // 4
    none = tl.zeros((ROWS,), tl.float32)
    nothing = tl.zeros((WIDTH, ROWS), tl.float32)

    if OVERLAPS:
        gdc_launch_dependents()
    # No kernel of a step writes the plan: it is read before the wait.
    for work in range(tl.program_id(0), tl.load(count_ptr) * HEADS, tl.num_programs(0)):
        item = work // HEADS
        head = work % HEADS
        request = tl.load(item_ptr + item * 5).to(tl.int64)
        first = tl.load(item_ptr + item * 5 + 1)
        last = tl.load(item_ptr + item * 5 + 2)
        start = tl.load(item_ptr + item * 5 + 3)
        stop = tl.load(item_ptr + item * 5 + 4)
        table = table_ptr + request * stride_table
        if OVERLAPS:
            if EARLY_TILES:
                fetch_early(
                    word_ptr, table, first, last, head, NUM_BLOCKS, ROW, HEADS, TILE, EARLY_TILES
                )
            gdc_wait()

        q_ptrs = q_ptr + request * stride_q + (head * GROUP + row)[:, None] * D + 2 * column
        q_a = tl.load(q_ptrs, mask=in_group, other=0.0).to(tl.float16)
        q_b = tl.load(q_ptrs + D // 2, mask=in_group, other=0.0).to(tl.float16)
        q_c = tl.load(q_ptrs + 1, mask=in_group, other=0.0).to(tl.float16)
        q_d = tl.load(q_ptrs + D // 2 + 1, mask=in_group, other=0.0).to(tl.float16)
        wide = q_a.to(tl.float32) + q_b.to(tl.float32) + (q_c.to(tl.float32) + q_d.to(tl.float32))
        q_sum = tl.sum(wide, 1) * score_scale
        q_b = (q_b.to(tl.float32) * ODD).to(tl.float16)
        q_d = (q_d.to(tl.float32) * ODD).to(tl.float16)

        top, total, offset = none + MASKED, none, none
        a, b, c, d = nothing, nothing, nothing, nothing
        part_top, part_total, part_offset = top, none, none
        part_a, part_b, part_c, part_d = nothing, nothing, nothing, nothing

        block = tl.load(table + first)
        for tile in tl.range(first, last, num_stages=STAGES):
            if (tile % TILES == 0) & (tile > first):
                top, total, offset, a, b, c, d = _fold_rows(
                    top, total, offset, a, b, c, d,
                    part_top, part_total, part_offset, part_a, part_b, part_c, part_d,
                )  # fmt: skip
                part_top, part_total, part_offset = none + MASKED, none, none
                part_a, part_b, part_c, part_d = nothing, nothing, nothing, nothing

            base = tl.minimum(tl.maximum(block, 0), NUM_BLOCKS - 1).to(tl.int64) * BLOCK
            block = tl.load(table + tl.minimum(tile + 1, last - 1))
            words = word_ptr + base + head * (TILE * ROW) + token[None, :] * ROW
            scales = scale_ptr + base + 2 * PLANE + head * (2 * TILE) + token

            k_a, k_b, k_c, k_d = load_parts(words, part, in_part, BITS, D, ASM)
            k_scale = tl.load(scales).to(tl.float32) * (CODE_UNIT * score_scale)
            k_bias = tl.load(scales + TILE).to(tl.float32)
            # One unsigned comparison for both ends of what is seen.
            seen = (tile * TILE - start + token).to(tl.uint32) < (stop - start).to(tl.uint32)
            hidden = tl.where(seen, 0.0, float("-inf"))
            scores = tl.dot(q_a, k_a)
            scores = tl.dot(q_b, k_b, scores)
            scores = tl.dot(q_c, k_c, scores)
            scores = tl.dot(q_d, k_d, scores)
            offsets = q_sum[:, None] * k_bias[None, :] + hidden[None, :]
            scores = scores * k_scale[None, :] + offsets
            scores = _first_rows(scores, ROWS)

            both = tl.maximum(part_top, tl.max(scores, 1))
            keep = tl.exp2(part_top - both)
            weights = tl.exp2(scores - both[:, None])
            v_scale = tl.load(scales + 2 * HEADS * TILE).to(tl.float32)
            v_bias = tl.load(scales + (2 * HEADS + 1) * TILE).to(tl.float32)
            part_top = both
            part_total = part_total * keep + tl.sum(weights, 1)
            part_offset = part_offset * keep + tl.sum(weights * v_bias[None, :], 1)
            weights = (weights * v_scale[None, :]).to(tl.float16)
            v_a, v_b, v_c, v_d = load_parts(words + PLANE, part, in_part, BITS, D, ASM)
            weights = tl.trans(weights)
            part_a = tl.dot(v_a, weights, part_a * keep[None, :])
            part_b = tl.dot(v_b, weights, part_b * keep[None, :])
            part_c = tl.dot(v_c, weights, part_c * keep[None, :])
            part_d = tl.dot(v_d, weights, part_d * keep[None, :])

        top, total, offset, a, b, c, d = _fold_rows(
            top, total, offset, a, b, c, d,
            part_top, part_total, part_offset, part_a, part_b, part_c, part_d,
        )  # fmt: skip
        head_row = tl.arange(0, ROWS)
        in_stats = head_row < GROUP
        place = (item.to(tl.int64) * HEADS + head) * GROUP + head_row
        tl.store(stat_ptr + place * 3, top, mask=in_stats)
        tl.store(stat_ptr + place * 3 + 1, total, mask=in_stats)
        tl.store(stat_ptr + place * 3 + 2, offset, mask=in_stats)
        in_out = in_stats[None, :] & in_part
        out = partial_ptr + place[None, :] * D + 2 * part
        tl.store(out, a * CODE_UNIT, mask=in_out)
        tl.store(out + D // 2, b * (CODE_UNIT * ODD), mask=in_out)
        tl.store(out + 1, c * CODE_UNIT, mask=in_out)
        tl.store(out + D // 2 + 1, d * (CODE_UNIT * ODD), mask=in_out)
    if OVERLAPS:
        gdc_wait()


def _check(
    q: Tensor, cache: KvCache, block_tables: Tensor, plan: DecodePlan, fmt: KvFormat
) -> None:
    if fmt.bits is None or fmt.block_size != TILE:
        raise ValueError(f"fmt: expected 4 or 8 bits and blocks of {TILE}, got {fmt}")
    if fmt.head_dim % 16 or fmt.head_dim > 256:
        raise ValueError(f"head_dim: expected a multiple of 16 up to 256, got {fmt.head_dim}")
    heads = plan.partials.shape[1]
    if q.dim() != 3 or q.shape[1:] != (heads, fmt.head_dim) or not q[0].is_contiguous():
        raise ValueError(
            f"q: expected [R, {heads}, {fmt.head_dim}], rows contiguous, got {list(q.shape)}"
        )
    if heads % fmt.num_kv_heads or heads // fmt.num_kv_heads > ROWS:
        raise ValueError(
            f"q: {heads} heads do not share {fmt.num_kv_heads} kv heads by 1 to {ROWS}"
        )
    if not cache.blocks.is_contiguous() or cache.blocks.shape[1] != fmt.block_elements:
        raise ValueError(
            f"cache: expected contiguous [num_blocks, {fmt.block_elements}], "
            f"got {list(cache.blocks.shape)}"
        )
    if block_tables.dtype != torch.int32 or block_tables.shape[1] * TILE < plan.max_context:
        raise ValueError(
            f"block_tables: expected int32 for {plan.max_context} tokens, "
            f"got {block_tables.dtype} {list(block_tables.shape)}"
        )
