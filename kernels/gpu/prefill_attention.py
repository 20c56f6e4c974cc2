"""Causal attention of many tokens a request over the paged, quantized KV cache, from sm_80 on.

A program has the query heads that share a kv head, of as many consecutive tokens as make its rows,
and walks the context's blocks from the first one seen; the step's own tokens are read from the
cache too. A block that a row does not see leaves the row's sums their bits, so these depend on
neither chunk nor company. They are not those of decode attention, which folds partitions.

Codes are unpacked once for all rows of a program, and scales fold as in decode attention.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.kv_codes import load_parts
from qoq.kernels.gpu.partial_softmax import CODE_UNIT, LOG2_E, MASKED
from qoq.kernels.kv_cache import KvCache, KvFormat

ROWS = 128
TOKENS = 64


def plan_prefill(
    query_lens: list[int], context_lens: list[int], num_heads: int, num_kv_heads: int
) -> Tensor:
    """Programs int32 ``[N, 4]``: request, first token of the step, tokens, first position.

    ``context_lens`` counts a request's tokens with this step's; its queries are the last ones.

    Raises:
        ValueError: heads do not divide, or a request has more queries than tokens.
    """
    if num_heads % num_kv_heads or num_heads // num_kv_heads > ROWS:
        raise ValueError(f"num_heads: {num_heads} do not share {num_kv_heads} kv heads")
    step = ROWS // (num_heads // num_kv_heads)
    programs, start = [], 0
    for request, (queries, length) in enumerate(zip(query_lens, context_lens, strict=True)):
        if queries > length:
            raise ValueError(f"query_lens: {queries} queries in a context of {length}")
        programs += [
            [request, start + i, min(step, queries - i), length - queries + i]
            for i in reversed(range(0, queries, step))
        ]
        start += queries
    return torch.tensor(programs, dtype=torch.int32).view(-1, 4)


def prefill_attention(
    q: Tensor,
    cache: KvCache,
    block_tables: Tensor,
    programs: Tensor,
    fmt: KvFormat,
    softmax_scale: float,
    window: int | None = None,
) -> Tensor:
    """``q`` ``[M, Hq, D]``, the same shape back; ``programs`` are those of ``plan_prefill``.

    ``block_tables`` int32 ``[R, max_blocks]``. A block id outside the cache reads some other block.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(q, block_tables, programs, fmt)
    out = torch.empty_like(q)
    if programs.shape[0]:
        _prefill_kernel[(programs.shape[0], fmt.num_kv_heads)](
            q,
            cache.blocks.view(torch.uint16),
            cache.blocks.view(torch.float16),
            block_tables,
            programs,
            out,
            cache.blocks.shape[0],
            block_tables.shape[1],
            window or 1 << 30,
            softmax_scale * LOG2_E,
            BITS=fmt.bits,
            D=fmt.head_dim,
            WIDTH=max(triton.next_power_of_2(fmt.head_dim // 4), 16),
            HEADS=fmt.num_kv_heads,
            GROUP=q.shape[1] // fmt.num_kv_heads,
            TOKENS=TOKENS,
            ROWS=ROWS,
            ASM=q.is_cuda,
            num_warps=8,
            num_stages=2,
        )
    return out


@triton.jit
def _prefill_kernel(
    q_ptr,
    word_ptr,
    scale_ptr,
    table_ptr,
    program_ptr,
    out_ptr,
    NUM_BLOCKS,
    TABLE_WIDTH,
    WINDOW,
    score_scale,
    BITS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    ASM: tl.constexpr,
):
    # In units of 16 bits: a token's row, a block's keys (or values), a block.
    ROW: tl.constexpr = D * BITS // 16
    PLANE: tl.constexpr = HEADS * TOKENS * ROW
    BLOCK: tl.constexpr = 2 * PLANE + 4 * HEADS * TOKENS
    ODD: tl.constexpr = 0.0625 if BITS == 4 else 1.0

    program = program_ptr + tl.program_id(0) * 4
    head = tl.program_id(1)
    request = tl.load(program).to(tl.int64)
    first_token = tl.load(program + 1).to(tl.int64)
    num_tokens = tl.load(program + 2)
    first_position = tl.load(program + 3)

    row = tl.arange(0, ROWS)
    token = tl.arange(0, TOKENS)
    column = tl.arange(0, WIDTH)[None, :]
    part = tl.arange(0, WIDTH)[:, None]
    in_part = part < D // 4
    in_rows = (row < num_tokens * GROUP)[:, None] & (column < D // 4)
    position = first_position + row // GROUP
    source = (first_token + row // GROUP) * (HEADS * GROUP) + head * GROUP + row % GROUP
    place = source[:, None] * D + 2 * column
    q_a = tl.load(q_ptr + place, mask=in_rows, other=0.0).to(tl.float16)
    q_b = tl.load(q_ptr + place + D // 2, mask=in_rows, other=0.0).to(tl.float16)
    q_c = tl.load(q_ptr + place + 1, mask=in_rows, other=0.0).to(tl.float16)
    q_d = tl.load(q_ptr + place + D // 2 + 1, mask=in_rows, other=0.0).to(tl.float16)
    wide = q_a.to(tl.float32) + q_b.to(tl.float32) + (q_c.to(tl.float32) + q_d.to(tl.float32))
    q_sum = tl.sum(wide, 1) * score_scale
    q_b = (q_b.to(tl.float32) * ODD).to(tl.float16)
    q_d = (q_d.to(tl.float32) * ODD).to(tl.float16)

    top = tl.full((ROWS,), MASKED, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    offset = tl.zeros((ROWS,), tl.float32)
    a = tl.zeros((ROWS, WIDTH), tl.float32)
    b, c, d = a, a, a
    first = tl.maximum(first_position - WINDOW + 1, 0) // TOKENS
    last = tl.minimum(tl.cdiv(first_position + num_tokens, TOKENS), TABLE_WIDTH)
    for tile in range(first, last):
        block = tl.load(table_ptr + request * TABLE_WIDTH + tile)
        base = tl.minimum(tl.maximum(block, 0), NUM_BLOCKS - 1).to(tl.int64) * BLOCK
        words = word_ptr + base + head * (TOKENS * ROW) + token[None, :] * ROW
        scales = scale_ptr + base + 2 * PLANE + head * (2 * TOKENS) + token
        k_a, k_b, k_c, k_d = load_parts(words, part, in_part, BITS, D, ASM)
        k_scale = tl.load(scales).to(tl.float32) * (CODE_UNIT * score_scale)
        k_bias = tl.load(scales + TOKENS).to(tl.float32)
        scores = tl.dot(q_a, k_a)
        scores = tl.dot(q_b, k_b, scores)
        scores = tl.dot(q_c, k_c, scores)
        scores = tl.dot(q_d, k_d, scores)
        scores = scores * k_scale[None, :] + q_sum[:, None] * k_bias[None, :]
        # One unsigned comparison for what comes after a row and what its window has left behind.
        distance = position[:, None] - (tile * TOKENS + token)[None, :]
        scores = tl.where(distance.to(tl.uint32) < WINDOW.to(tl.uint32), scores, float("-inf"))

        both = tl.maximum(top, tl.max(scores, 1))
        keep = tl.exp2(top - both)
        weights = tl.exp2(scores - both[:, None])
        v_scale = tl.load(scales + 2 * HEADS * TOKENS).to(tl.float32)
        v_bias = tl.load(scales + (2 * HEADS + 1) * TOKENS).to(tl.float32)
        top = both
        total = total * keep + tl.sum(weights, 1)
        offset = offset * keep + tl.sum(weights * v_bias[None, :], 1)
        weights = (weights * v_scale[None, :]).to(tl.float16)
        v_a, v_b, v_c, v_d = load_parts(words + PLANE, part, in_part, BITS, D, ASM)
        a = tl.dot(weights, tl.trans(v_a), a * keep[:, None])
        b = tl.dot(weights, tl.trans(v_b), b * keep[:, None])
        c = tl.dot(weights, tl.trans(v_c), c * keep[:, None])
        d = tl.dot(weights, tl.trans(v_d), d * keep[:, None])

    some = tl.where(total > 0, total, 1.0)[:, None]
    offset = offset[:, None]
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + place, ((a * CODE_UNIT + offset) / some).to(dtype), mask=in_rows)
    b = (b * (CODE_UNIT * ODD) + offset) / some
    tl.store(out_ptr + place + D // 2, b.to(dtype), mask=in_rows)
    tl.store(out_ptr + place + 1, ((c * CODE_UNIT + offset) / some).to(dtype), mask=in_rows)
    d = (d * (CODE_UNIT * ODD) + offset) / some
    tl.store(out_ptr + place + D // 2 + 1, d.to(dtype), mask=in_rows)


def _check(q: Tensor, block_tables: Tensor, programs: Tensor, fmt: KvFormat) -> None:
    if fmt.bits is None or fmt.block_size != TOKENS:
        raise ValueError(f"fmt: expected 4 or 8 bits and blocks of {TOKENS}, got {fmt}")
    if q.dim() != 3 or q.shape[2] != fmt.head_dim or not q.is_contiguous():
        raise ValueError(f"q: expected contiguous [M, Hq, {fmt.head_dim}], got {list(q.shape)}")
    if q.shape[1] % fmt.num_kv_heads or q.shape[1] // fmt.num_kv_heads > ROWS:
        raise ValueError(f"q: {q.shape[1]} heads do not share {fmt.num_kv_heads} kv heads")
    for name, tensor in (("block_tables", block_tables), ("programs", programs)):
        if tensor.dtype != torch.int32 or tensor.dim() != 2 or not tensor.is_contiguous():
            raise ValueError(
                f"{name}: expected a contiguous int32 matrix, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
