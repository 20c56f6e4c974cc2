"""Attention in the precisions that the serving kernels do not use, for the bench alone.

One head's rows over all of its tokens, no mask, otherwise as in ``prefill_triton``.
"""

import triton
import triton.language as tl

from qoq.kernels.gpu.attention.partial_softmax import MASKED


@triton.jit
def math_kernel(
    q_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    num_rows,
    num_tokens,
    score_scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    SUMS: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    """fp16 ``[heads, rows, D]`` over ``[heads, tokens, D]``, multiples of ROWS and of TILE.

    ``SUMS`` is the type in which the matrix unit adds, ``WEIGHTS`` that of its operand; fp32
    weights are multiplied as TF32.
    """
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)[None, :]
    place = (head * num_rows + row)[:, None] * D + column
    q = tl.load(q_ptr + place)
    source = (head * num_tokens + tl.arange(0, TILE))[:, None] * D + column
    top = tl.full((ROWS,), MASKED, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((ROWS, D), SUMS)
    for _ in range(0, num_tokens, TILE):
        keys = tl.load(key_ptr + source)
        scores = tl.dot(q, tl.trans(keys), out_dtype=SUMS).to(tl.float32)
        both = tl.maximum(top, tl.max(scores, 1))
        keep = tl.exp2((top - both) * score_scale)
        weights = tl.exp2(tl.fma(scores, score_scale, (both * -score_scale)[:, None]))
        total = tl.fma(total, keep, tl.sum(weights, 1))
        values = tl.load(value_ptr + source).to(WEIGHTS)
        scaled = (out * keep[:, None]).to(SUMS)
        out = tl.dot(weights.to(WEIGHTS), values, scaled, input_precision="tf32", out_dtype=SUMS)
        top = both
        source += TILE * D
    tl.store(out_ptr + place, (out.to(tl.float32) / total[:, None]).to(tl.float16))
