"""Causal attention over dequantized keys and values, in Triton, on GPUs from sm_80 on.

FlashAttention-2 (Dao, arXiv 2307.08691) over a request's own rows of the scratch: a program has
the query heads that share a kv head, of consecutive tokens, and walks its tiles from the first one
that is seen. A tile that a row does not see leaves the row's sums their bits.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.attention.partial_softmax import LOG2_E, MASKED
from qoq.kernels.gpu.attention.prefill_plan import ROWS, PrefillPlan
from qoq.kernels.kv_cache import KvFormat


class PrefillTile(NamedTuple):
    """``tile`` tokens of keys a step, at most 128. One setting serves all steps of a model:
    bits depend on it.
    """

    tile: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None


def attend_triton(
    q: Tensor,
    scratch: Tensor,
    plan: PrefillPlan,
    heads: range,
    fmt: KvFormat,
    softmax_scale: float,
    config: PrefillTile,
    out: Tensor,
) -> None:
    """The query heads that share kv ``heads``, which ``scratch`` holds, from ``q`` to ``out``."""
    _prefill_kernel[(plan.num_programs, len(heads))](
        q,
        scratch,
        plan.programs,
        out,
        plan.num_rows,
        heads.start,
        plan.window or 1 << 30,
        softmax_scale * LOG2_E,
        D=fmt.head_dim,
        WIDTH=scratch.shape[1],
        HEADS=fmt.num_kv_heads,
        GROUP=q.shape[1] // fmt.num_kv_heads,
        TILE=config.tile,
        ROWS=ROWS,
        HAS_WINDOW=plan.window is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        maxnreg=config.max_registers,
    )


@triton.jit
def _fold_tile(
    state,
    q,
    keys,
    values,
    scale,
    position,
    column,
    window,
    HAS_WINDOW: tl.constexpr,
    MASKS: tl.constexpr,
):
    """One tile, of which ``position`` of a row is counted from the first token."""
    top, total, out = state
    scores = tl.dot(q, tl.trans(tl.load(keys)))
    if MASKS:
        seen = position[:, None] >= column[None, :]
        if HAS_WINDOW:
            seen = seen & (position[:, None] - window < column[None, :])
        scores = tl.where(seen, scores, float("-inf"))
    both = tl.maximum(top, tl.max(scores, 1))
    keep = tl.exp2((top - both) * scale)
    weights = tl.exp2(tl.fma(scores, scale, (both * -scale)[:, None]))
    total = tl.fma(total, keep, tl.sum(weights, 1))
    out = tl.dot(weights.to(tl.float16), tl.load(values), out * keep[:, None])
    return both, total, out


@triton.jit(do_not_specialize=["first_head", "window"])
def _prefill_kernel(
    q_ptr,
    scratch_ptr,
    program_ptr,
    out_ptr,
    num_rows,
    first_head,
    window,
    score_scale,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    program = program_ptr + tl.program_id(0) * 4
    first_token = tl.load(program)
    num_tokens = tl.load(program + 1)
    first_position = tl.load(program + 2)
    base_row = tl.load(program + 3)

    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    token = tl.arange(0, TILE)
    head = first_head + tl.program_id(1)
    source = (first_token + row // GROUP).to(tl.int64) * (HEADS * GROUP)
    source += head * GROUP + row % GROUP
    place = source[:, None] * D + column
    in_rows = (row < num_tokens * GROUP)[:, None] & (column < D)
    q = tl.load(q_ptr + place, mask=in_rows, other=0.0).to(tl.float16)
    position = first_position + row // GROUP

    first_row = tl.program_id(1).to(tl.int64) * 2 * num_rows + base_row
    keys = scratch_ptr + (first_row + token)[:, None] * WIDTH + column
    gap = num_rows.to(tl.int64) * WIDTH
    state = (
        tl.full((ROWS,), MASKED, tl.float32),
        tl.zeros((ROWS,), tl.float32),
        tl.zeros((ROWS, WIDTH), tl.float32),
    )
    # Tiles that all rows see wholly need no mask.
    last = tl.cdiv(first_position + num_tokens, TILE)
    first = tl.maximum(first_position - window + 1, 0) // TILE
    start = first
    if HAS_WINDOW:
        start = tl.cdiv(tl.maximum(first_position + num_tokens - window, 0), TILE)
        start = tl.minimum(tl.maximum(start, first), last)
        # fmt: off
        for tile in range(first, start):
            tile_keys = keys + tile * (TILE * WIDTH)
            state = _fold_tile(state, q, tile_keys, tile_keys + gap, score_scale,
                               position - tile * TILE, token, window, HAS_WINDOW, True)
    free = tl.maximum((first_position + 1) // TILE, start)
    for tile in range(start, free):
        tile_keys = keys + tile * (TILE * WIDTH)
        state = _fold_tile(
            state,
            q,
            tile_keys,
            tile_keys + gap,
            score_scale,
            position,
            token,
            window,
            HAS_WINDOW,
            False,
        )
    for tile in range(free, last):
        tile_keys = keys + tile * (TILE * WIDTH)
        state = _fold_tile(
            state,
            q,
            tile_keys,
            tile_keys + gap,
            score_scale,
            position - tile * TILE,
            token,
            window,
            HAS_WINDOW,
            True,
        )
        # fmt: on
    _top, total, out = state
    tl.store(out_ptr + place, (out / total[:, None]).to(out_ptr.dtype.element_ty), mask=in_rows)
