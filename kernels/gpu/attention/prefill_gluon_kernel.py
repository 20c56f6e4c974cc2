"""The device side of ``prefill_gluon``: who fetches, who multiplies, and what a block shares."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from qoq.kernels.gpu.triton_versions import async_load, thread_barrier

HALF: gl.constexpr = gl.constexpr(64)  # rows of a warp group, and of one instruction
MASKED: gl.constexpr = gl.constexpr(-1e30)  # minus infinity where a difference must be a number


@gluon.jit
def _num_turns(num_items):
    """Items of this block, which takes one of each round."""
    blocks = gl.num_programs(0)
    rounds = num_items // blocks
    return rounds + (_place(rounds) < num_items % blocks).to(gl.int32)


@gluon.jit
def _place(turn):
    """Back and forth: whoever had the longest item of a round has the shortest of the next."""
    block = gl.program_id(0)
    return block + turn % 2 * (gl.num_programs(0) - 1 - 2 * block)


@gluon.jit
def _item(turn, program_ptr, work, TILE: gl.constexpr):
    """Head in the scratch and the four numbers of the program; first tile, and where they stop."""
    num_programs, _items, _num_rows, _first_head, window, _scale = work
    item = turn * gl.num_programs(0) + _place(turn)
    program = program_ptr + item % num_programs * 4
    first_token = gl.load(program)
    num_tokens = gl.load(program + 1)
    first_position = gl.load(program + 2)
    base_row = gl.load(program + 3)
    first = gl.maximum(first_position - window + 1, 0) // TILE
    stop = (first_position + num_tokens + TILE - 1) // TILE
    return item // num_programs, first_token, num_tokens, first_position, base_row, first, stop


@gluon.jit
def _fetch(kv_desc, program_ptr, rings, barriers, work, TILE: gl.constexpr, STAGES: gl.constexpr):
    key_ring, value_ring = rings
    key_full, key_empty, value_full, value_empty = barriers
    _programs, num_items, num_rows, _first_head, _window, _scale = work
    BYTES: gl.constexpr = kv_desc.block_type.nbytes
    count = 0
    for turn in range(_num_turns(num_items)):
        head, _t, _n, _p, base_row, first, stop = _item(turn, program_ptr, work, TILE)
        row = 2 * head * num_rows + base_row
        for tile in range(first, stop):
            stage = count % STAGES
            phase = (count // STAGES & 1) ^ 1
            mbarrier.wait(key_empty.index(stage), phase)
            ready = key_full.index(stage)
            mbarrier.expect(ready, BYTES)
            place = row + tile * TILE
            async_load(kv_desc, [place, 0], ready, key_ring.index(stage))
            mbarrier.wait(value_empty.index(stage), phase)
            ready = value_full.index(stage)
            mbarrier.expect(ready, BYTES)
            place += num_rows
            async_load(kv_desc, [place, 0], ready, value_ring.index(stage))
            count += 1


@gluon.jit
def _weigh(
    scores,
    top,
    total,
    scale,
    position,
    column,
    window,
    HAS_WINDOW: gl.constexpr,
    MASKS: gl.constexpr,
):
    """Weights of one tile, and what becomes of the rows' maxima and sums.

    ``position`` of a row is counted from the tile's first token.
    """
    if MASKS:
        seen = gl.expand_dims(position, 1) >= column
        if HAS_WINDOW:
            seen = seen & (gl.expand_dims(position - window, 1) < column)
        scores = gl.where(seen, scores, float("-inf"))
    both = gl.maximum(top, gl.max(scores, 1))
    keep = gl.exp2((top - both) * scale)
    shift = gl.expand_dims(both * -scale, 1)
    weights = gl.exp2(gl.fma(scores, scale, shift))
    return both, gl.fma(total, keep, gl.sum(weights, 1)), keep, weights


@gluon.jit
def _operands(weights, keep, out):
    """Of the product with a tile's values."""
    layout: gl.constexpr = out.type.layout
    keep = gl.convert_layout(keep, gl.SliceLayout(1, layout), assert_trivial=True)
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 2)
    weights = gl.convert_layout(weights.to(gl.float16), operand, assert_trivial=True)
    return weights, out * gl.expand_dims(keep, 1)


@gluon.jit
def _walk(
    state,
    start,
    stop,
    q,
    position,
    column,
    rings,
    barriers,
    work,
    TILE: gl.constexpr,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
    HAS_WINDOW: gl.constexpr,
    ISSUES_FIRST: gl.constexpr,
    MASKS: gl.constexpr,
):
    """Tiles ``start`` to ``stop``, while the scores of the tile after each are multiplied."""
    SCORE: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    key_ring, value_ring = rings
    key_full, key_empty, value_full, value_empty = barriers
    _programs, _items, _num_rows, _first_head, window, scale = work
    scores, top, total, out, count = state
    for tile in range(start, stop):
        stage, phase = count % STAGES, count // STAGES & 1
        next_stage, next_phase = (count + 1) % STAGES, (count + 1) // STAGES & 1
        if not ISSUES_FIRST or MASKS:
            mbarrier.wait(value_full.index(stage), phase)
        mbarrier.wait(key_full.index(next_stage), next_phase)
        keys = key_ring.index(next_stage).permute([1, 0])
        none = gl.zeros([HALF, TILE], gl.float32, SCORE)
        after = warpgroup_mma(q, keys, none, use_acc=False, is_async=True)
        if ISSUES_FIRST and not MASKS:
            # A loop that waits, which ptxas moves no multiplication across.
            mbarrier.wait(value_full.index(stage), phase)
        top, total, keep, weights = _weigh(
            scores, top, total, scale, position - tile * TILE, column, window, HAS_WINDOW, MASKS
        )
        weights, out = _operands(weights, keep, out)
        out = warpgroup_mma(weights, value_ring.index(stage), out, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[after])
        mbarrier.arrive(key_empty.index(next_stage), count=1)
        out, weights = warpgroup_mma_wait(0, deps=[out, weights])
        mbarrier.arrive(value_empty.index(stage), count=1)
        count += 1
    return scores, top, total, out, count


@gluon.jit
def _rows(
    turn,
    program_ptr,
    row,
    work,
    D: gl.constexpr,
    HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    WIDTH: gl.constexpr,
    TILE: gl.constexpr,
):
    """Where the queries of ``row`` are, and their results go; and which exist."""
    _programs, _items, _num_rows, first_head, _window, _scale = work
    # fmt: off
    head, first_token, num_tokens, _p, _base, _first, _stop = _item(turn, program_ptr, work, TILE)
    # fmt: on
    layout: gl.constexpr = row.type.layout
    column = gl.expand_dims(gl.arange(0, WIDTH, gl.SliceLayout(0, layout.parent)), 0)
    source = (first_token + row // GROUP).to(gl.int64) * (HEADS * GROUP)
    source += (first_head + head) * GROUP + row % GROUP
    in_rows = gl.expand_dims(row < num_tokens * GROUP, 1) & (column < D)
    return gl.expand_dims(source, 1) * D + column, in_rows


@gluon.jit
def _queries(
    q_ptr,
    turn,
    program_ptr,
    row,
    work,
    D: gl.constexpr,
    HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    WIDTH: gl.constexpr,
    TILE: gl.constexpr,
):
    place, in_rows = _rows(turn, program_ptr, row, work, D, HEADS, GROUP, WIDTH, TILE)
    return gl.load(q_ptr + place, mask=in_rows, other=0.0).to(gl.float16)


@gluon.jit
def _attend(
    WHICH: gl.constexpr,
    q_ptr,
    out_ptr,
    program_ptr,
    q_buffer,
    rings,
    barriers,
    work,
    D: gl.constexpr,
    HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    TILE: gl.constexpr,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
    HAS_WINDOW: gl.constexpr,
    ISSUES_FIRST: gl.constexpr,
):
    SCORE: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, WIDTH, 16])
    LANES: gl.constexpr = WIDTH // 8
    MEMORY: gl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [4, 1], [1, 0])
    key_ring, value_ring = rings
    key_full, key_empty, value_full, value_empty = barriers
    _programs, num_items, _num_rows, _first_head, window, scale = work

    row = WHICH * HALF + gl.arange(0, HALF, gl.SliceLayout(1, MEMORY))
    score_row = WHICH * HALF + gl.arange(0, HALF, gl.SliceLayout(1, SCORE))
    score_column = gl.expand_dims(gl.arange(0, TILE, gl.SliceLayout(0, SCORE)), 0)
    q = q_buffer.index(WHICH)
    count = 0
    num_turns = _num_turns(num_items)
    own = _queries(q_ptr, 0, program_ptr, row, work, D, HEADS, GROUP, WIDTH, TILE)
    for turn in range(num_turns):
        _h, _t, num_tokens, first_position, _b, first, stop = _item(turn, program_ptr, work, TILE)
        thread_barrier()
        q.store(own)
        fence_async_shared()
        thread_barrier()

        stage = count % STAGES
        mbarrier.wait(key_full.index(stage), count // STAGES & 1)
        none = gl.zeros([HALF, TILE], gl.float32, SCORE)
        keys = key_ring.index(stage).permute([1, 0])
        scores = warpgroup_mma(q, keys, none, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(key_empty.index(stage), count=1)

        last = stop - 1
        position = first_position + score_row // GROUP
        top = gl.full([HALF], MASKED, gl.float32, gl.SliceLayout(1, SCORE))
        total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, SCORE))
        out = gl.zeros([HALF, WIDTH], gl.float32, OUT)
        state = (scores, top, total, out, count)
        # Tiles that all rows see wholly need no mask; the last one is left for after the loops.
        # fmt: off
        start = first
        if HAS_WINDOW:
            start = (gl.maximum(first_position + num_tokens - window, 0) + TILE - 1) // TILE
            start = gl.minimum(gl.maximum(start, first), last)
            state = _walk(state, first, start, q, position, score_column, rings, barriers, work,
                          TILE, WIDTH, STAGES, HAS_WINDOW, ISSUES_FIRST, True)
        free_stop = gl.minimum(gl.maximum((first_position + 1) // TILE, start), last)
        state = _walk(state, start, free_stop, q, position, score_column, rings, barriers, work,
                      TILE, WIDTH, STAGES, HAS_WINDOW, ISSUES_FIRST, False)
        state = _walk(state, free_stop, last, q, position, score_column, rings, barriers, work,
                      TILE, WIDTH, STAGES, HAS_WINDOW, ISSUES_FIRST, True)
        # fmt: on
        scores, top, total, out, count = state

        top, total, keep, weights = _weigh(
            scores,
            top,
            total,
            scale,
            position - last * TILE,
            score_column,
            window,
            HAS_WINDOW,
            True,
        )
        weights, out = _operands(weights, keep, out)
        # The next program's queries come while this one's last values do, if registers suffice.
        after = gl.minimum(turn + 1, num_turns - 1)
        if WIDTH <= 128:
            own = _queries(q_ptr, after, program_ptr, row, work, D, HEADS, GROUP, WIDTH, TILE)
        stage = count % STAGES
        mbarrier.wait(value_full.index(stage), count // STAGES & 1)
        out = warpgroup_mma(weights, value_ring.index(stage), out, is_async=True)
        out, weights = warpgroup_mma_wait(0, deps=[out, weights])
        mbarrier.arrive(value_empty.index(stage), count=1)
        count += 1

        total = gl.convert_layout(total, gl.SliceLayout(1, OUT), assert_trivial=True)
        dtype: gl.constexpr = out_ptr.dtype.element_ty
        q.store((out / gl.expand_dims(total, 1)).to(dtype).to(gl.float16, bitcast=True))
        if WIDTH > 128:
            own = _queries(q_ptr, after, program_ptr, row, work, D, HEADS, GROUP, WIDTH, TILE)
        thread_barrier()
        rows = q.load(MEMORY).to(dtype, bitcast=True)
        # Once more: kept, they would take 50 registers of the loops above.
        place, in_rows = _rows(turn, program_ptr, row, work, D, HEADS, GROUP, WIDTH, TILE)
        gl.store(out_ptr + place, rows, mask=in_rows)


@gluon.jit(do_not_specialize=["num_programs", "num_items", "first_head", "window"])
def _prefill_hopper_kernel(
    kv_desc,
    q_ptr,
    out_ptr,
    program_ptr,
    num_programs,
    num_items,
    num_rows,
    first_head,
    window,
    score_scale,
    D: gl.constexpr,
    HEADS: gl.constexpr,
    GROUP: gl.constexpr,
    STAGES: gl.constexpr,
    HAS_WINDOW: gl.constexpr,
    ISSUES_FIRST: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    TILE: gl.constexpr = kv_desc.block_type.shape[0]
    WIDTH: gl.constexpr = kv_desc.block_type.shape[1]
    q_buffer = gl.allocate_shared_memory(gl.float16, [2, HALF, WIDTH], kv_desc.layout)
    key_ring = gl.allocate_shared_memory(gl.float16, [STAGES, TILE, WIDTH], kv_desc.layout)
    value_ring = gl.allocate_shared_memory(gl.float16, [STAGES, TILE, WIDTH], kv_desc.layout)
    key_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    key_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    value_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    value_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    for stage in gl.static_range(STAGES):
        mbarrier.init(key_full.index(stage), count=1)
        mbarrier.init(key_empty.index(stage), count=2)
        mbarrier.init(value_full.index(stage), count=1)
        mbarrier.init(value_empty.index(stage), count=2)
    fence_async_shared()
    rings = (key_ring, value_ring)
    barriers = (key_full, key_empty, value_full, value_empty)
    work = (num_programs, num_items, num_rows, first_head, window, score_scale)
    # fmt: off
    gl.warp_specialize(
        [
            (_attend, (0, q_ptr, out_ptr, program_ptr, q_buffer, rings, barriers, work,
                       D, HEADS, GROUP, TILE, WIDTH, STAGES, HAS_WINDOW, ISSUES_FIRST)),
            (_attend, (1, q_ptr, out_ptr, program_ptr, q_buffer, rings, barriers, work,
                       D, HEADS, GROUP, TILE, WIDTH, STAGES, HAS_WINDOW, ISSUES_FIRST)),
            (_fetch, (kv_desc, program_ptr, rings, barriers, work, TILE, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )
    # fmt: on
