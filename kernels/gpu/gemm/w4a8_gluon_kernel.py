"""The device side of ``w4a8_gluon``: who fetches, who multiplies, and what the blocks share."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.gemm.w4a8_gluon_products import (
    begin_products,
    dequantize,
    end_products,
    first_row,
    num_strips,
    only_codes,
    strips_at,
    sums_layout,
    zero_sums,
)
from qoq.kernels.gpu.gemm.w4a8_gluon_sums import (
    ROWS,
    collect_shares,
    give_sums,
    leave_share,
    own_share,
    store_strip,
    take_sums,
)
from qoq.kernels.gpu.triton_versions import async_load


@gluon.jit
def _range_of_tiles(tiles, steps, share):
    """This block's first tile, the tile it stops at, and its stride; its first stage of all and
    the stage it stops at.
    """
    block = gl.program_id(0)
    if share == 0:
        return block, tiles, gl.num_programs(0), 0, tiles * steps
    begin = own_share() * share
    end = gl.minimum(begin + share, tiles * steps)
    return begin // steps, (end + steps - 1) // steps, 1, begin, end


@gluon.jit
def _place(tile, tiles_m, tiles_n):
    """Eight columns of tiles at a time: neighbours share weights and activations in the L2."""
    band = 8 * tiles_m
    first_n = tile // band * 8
    width = gl.minimum(tiles_n - first_n, 8)
    return tile % band // width, first_n + tile % band % width


@gluon.jit
def _fetch_weights(
    w_desc,
    group_desc,
    rings,
    barriers,
    num_boxes,
    work,
    GROUPS: gl.constexpr,
    STAGES: gl.constexpr,
    BOXES: gl.constexpr,
    PARTS: gl.constexpr,
    HEIGHT: gl.constexpr,
):
    tiles_m, tiles_n, steps, share = work
    w_ring, group_ring, _x, _scale, _sum = rings
    full, empty, _turns, _handover = barriers
    first, stop, stride, begin, end = _range_of_tiles(tiles_m * tiles_n, steps, share)
    count = 0
    for tile in range(first, stop, stride):
        _, tile_n = _place(tile, tiles_m, tiles_n)
        for step in range(
            gl.maximum(begin - tile * steps, 0), gl.minimum(end - tile * steps, steps)
        ):
            stage = count % STAGES
            ready = full.index(stage)
            mbarrier.wait(empty.index(stage), ((count // STAGES) & 1) ^ 1)
            mbarrier.expect(ready, BOXES * PARTS * HEIGHT * (64 + 4 * GROUPS))
            for depth in gl.static_range(BOXES):
                for row in gl.static_range(0, PARTS * HEIGHT, ROWS):
                    # Past the last box of a row lies the next row's; its activations are zeros.
                    boxes = (tile_n * (PARTS * HEIGHT) + row) // ROWS * num_boxes
                    box = boxes + step * BOXES + depth
                    place = (stage * BOXES + depth) * PARTS + row // HEIGHT
                    w = w_ring.index(place).slice(row % HEIGHT, ROWS, dim=0)
                    async_load(w_desc, [box * ROWS, 0], ready, w)
                    for group in gl.static_range(GROUPS):
                        words = group_ring.index(place * GROUPS + group)
                        words = words.slice(row % HEIGHT, ROWS, dim=0)
                        start = (box * GROUPS + group) * ROWS
                        async_load(group_desc, [start], ready, words)
            count += 1


@gluon.jit
def _fetch_activations(
    x_descs,
    scale_desc,
    sum_desc,
    rings,
    barriers,
    work,
    BLOCK_M: gl.constexpr,
    GROUPS: gl.constexpr,
    STAGES: gl.constexpr,
    BOXES: gl.constexpr,
):
    gdc_wait()
    tiles_m, tiles_n, steps, share = work
    _w, _group, x_rings, scale_ring, sum_ring = rings
    full, empty, _turns, _handover = barriers
    first, stop, stride, begin, end = _range_of_tiles(tiles_m * tiles_n, steps, share)
    LINE: gl.constexpr = scale_desc.block_shape[0]
    LINE_BYTES: gl.constexpr = LINE * (8 if GROUPS == 0 else 4)
    count = 0
    turn = 0
    for tile in range(first, stop, stride):
        tile_m, _ = _place(tile, tiles_m, tiles_n)
        first_step = gl.maximum(begin - tile * steps, 0)
        for step in range(first_step, gl.minimum(end - tile * steps, steps)):
            stage = count % STAGES
            ready = full.index(stage)
            mbarrier.wait(empty.index(stage), ((count // STAGES) & 1) ^ 1)
            if step == first_step:
                mbarrier.expect(ready, BLOCK_M * BOXES * 128 + LINE_BYTES)
                row = [tile_m * BLOCK_M]
                scales = scale_ring.index(turn).slice(0, LINE, dim=0)
                async_load(scale_desc, row, ready, scales)
                if GROUPS == 0:
                    sums = sum_ring.index(turn).slice(0, LINE, dim=0)
                    async_load(sum_desc, row, ready, sums)
            else:
                mbarrier.expect(ready, BLOCK_M * BOXES * 128)
            for half in gl.static_range(2 * BOXES):
                for strip in gl.static_range(len(x_descs)):
                    row = tile_m * BLOCK_M + first_row(x_descs[strip].block_shape[0], BLOCK_M)
                    async_load(
                        x_descs[strip],
                        [row, (step * 2 * BOXES + half) * 64],
                        ready,
                        x_rings[strip].index(stage * 2 * BOXES + half),
                    )
            count += 1
        turn ^= 1


@gluon.jit
def _multiply(
    WHICH: gl.constexpr,
    out,
    rings,
    buffers,
    barriers,
    work,
    BLOCK_M: gl.constexpr,
    GROUPS: gl.constexpr,
    STAGES: gl.constexpr,
    BOXES: gl.constexpr,
    PARTS: gl.constexpr,
    HEIGHT: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    IS_GATED: gl.constexpr,
    TAKES_TURNS: gl.constexpr,
):
    """Group ``WHICH`` of two. With two parts a tile it multiplies the part of its number, with one
    every other box, and the first group adds up what both have.
    """
    PART: gl.constexpr = WHICH if PARTS == 2 else 0
    FIRST: gl.constexpr = WHICH if PARTS == 1 else 0
    tiles_m, tiles_n, steps, share = work
    w_ring, group_ring, x_rings, scale_ring, sum_ring = rings
    y_buffer, exchange = buffers
    full, empty, turns, handover = barriers
    _y, w_scale_ptr, _zero, _bias, partial_ptr, counter_ptr, N = out
    MMA: gl.constexpr = sums_layout(x_rings[0].shape[1])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 4)
    SHARE: gl.constexpr = HEIGHT * BLOCK_M
    first, stop, stride, begin, end = _range_of_tiles(tiles_m * tiles_n, steps, share)
    count = 0
    turn = 0
    for tile in range(first, stop, stride):
        tile_m, tile_n = _place(tile, tiles_m, tiles_n)
        first_step = gl.maximum(begin - tile * steps, 0)
        num_steps = gl.minimum(end - tile * steps, steps) - first_step
        column = (tile_n * PARTS + PART) * HEIGHT + gl.arange(0, HEIGHT, gl.SliceLayout(1, MMA))
        w_scale = gl.load(w_scale_ptr + column, mask=column < N, other=0.0)
        accs = zero_sums(x_rings, HEIGHT)
        for _ in range(num_steps):
            stage = count % STAGES
            mbarrier.wait(full.index(stage), (count // STAGES) & 1)
            for depth in gl.static_range(FIRST, BOXES, 3 - PARTS):
                place = stage * BOXES + depth
                w = w_ring.index(place * PARTS + PART).load(OPERAND)
                if GROUPS == 0:
                    low = only_codes(w, False)
                else:
                    words = group_ring.index((place * PARTS + PART) * GROUPS)
                    group = words.load(gl.SliceLayout(1, OPERAND))
                    low = dequantize(w, group, False)
                xs = strips_at(x_rings, place * 2)
                if not TAKES_TURNS:
                    accs = begin_products(low, xs, accs)
                if GROUPS == 0:
                    high = only_codes(w, True)
                else:
                    if GROUPS == 2:
                        words = group_ring.index((place * PARTS + PART) * GROUPS + 1)
                        group = words.load(gl.SliceLayout(1, OPERAND))
                    high = dequantize(w, group, True)
                if TAKES_TURNS:
                    if depth == FIRST:
                        mbarrier.wait(turns.index(WHICH), (count & 1) ^ (1 - WHICH))
                    accs = begin_products(low, xs, accs)
                xs = strips_at(x_rings, place * 2 + 1)
                accs = begin_products(high, xs, accs)
            if TAKES_TURNS:
                mbarrier.arrive(turns.index(1 - WHICH), count=1)
            accs = end_products(accs, xs)
            mbarrier.arrive(empty.index(stage), count=1)
            count += 1

        if PARTS == 1:
            if WHICH == 0:
                accs = [take_sums(accs[0], exchange, handover, turn)]
            else:
                give_sums(accs[0], exchange, handover, turn)
        if PARTS == 2 or WHICH == 0:
            if first_step > 0:
                leave_share(accs, partial_ptr, counter_ptr, tile, SHARE, PART, PARTS)
            else:
                if num_steps < steps:
                    accs = collect_shares(
                        accs, partial_ptr, counter_ptr, tile, steps, share, SHARE, PART, PARTS
                    )
                for strip in gl.static_range(len(accs)):
                    store_strip(
                        accs[strip],
                        column,
                        w_scale,
                        out,
                        (scale_ring.index(turn), sum_ring.index(turn)),
                        tile_m * BLOCK_M,
                        tile_n * PARTS + PART,
                        y_buffer.index(PART),
                        BLOCK_M,
                        GROUPS,
                        HAS_BIAS,
                        IS_GATED,
                    )
        turn ^= 1
    tma.store_wait(0)


# Sizes are data: one compiled kernel serves all shapes.
@gluon.jit(do_not_specialize=["N", "num_boxes", "tiles_m", "tiles_n", "steps", "share"])
def _w4a8_kernel(
    x_desc,
    x2_desc,
    x3_desc,
    w_desc,
    group_desc,
    scale_desc,
    sum_desc,
    y_desc,
    w_scale_ptr,
    zero_ptr,
    bias_ptr,
    partial_ptr,
    counter_ptr,
    N,
    num_boxes,
    tiles_m,
    tiles_n,
    steps,
    share,
    BLOCK_M: gl.constexpr,
    GROUPS: gl.constexpr,
    STAGES: gl.constexpr,
    BOXES: gl.constexpr,
    PARTS: gl.constexpr,
    HEIGHT: gl.constexpr,
    CHUNKS: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    IS_GATED: gl.constexpr,
    TAKES_TURNS: gl.constexpr,
    MULTIPLY_REGISTERS: gl.constexpr,
    FETCH_REGISTERS: gl.constexpr,
):
    LINE: gl.constexpr = max(scale_desc.block_shape[0], 32)  # TMA writes to multiples of 128 bytes
    NUM_GROUPS: gl.constexpr = GROUPS if GROUPS > 0 else 1
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    w_ring = gl.allocate_shared_memory(
        gl.uint8, [STAGES * BOXES * PARTS, HEIGHT, 64], w_desc.layout
    )
    x_descs = (x_desc, x2_desc, x3_desc)[: num_strips(BLOCK_M)]
    x_rings = [
        gl.allocate_shared_memory(
            gl.int8, [STAGES * BOXES * 2, desc.block_shape[0], 64], desc.layout
        )
        for desc in x_descs
    ]
    group_ring = gl.allocate_shared_memory(
        gl.int32, [STAGES * BOXES * PARTS * NUM_GROUPS, HEIGHT], group_desc.layout
    )
    scale_ring = gl.allocate_shared_memory(gl.float32, [2, LINE], scale_desc.layout)
    sum_ring = gl.allocate_shared_memory(gl.int32, [2, LINE], sum_desc.layout)
    WIDTH: gl.constexpr = ROWS // 2 if IS_GATED and HEIGHT == ROWS else ROWS
    y_buffer = gl.allocate_shared_memory(
        y_desc.dtype, [PARTS, x_desc.block_shape[0] // CHUNKS, WIDTH], y_desc.layout
    )
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=2)
        mbarrier.init(empty.index(stage), count=2)
    # Barriers that nobody uses would share their memory with ``y_buffer`` and spoil it.
    turns = empty
    if TAKES_TURNS:
        turns = gl.allocate_shared_memory(gl.int64, [2, 1], BARRIER)
        mbarrier.init(turns.index(0), count=1)
        mbarrier.init(turns.index(1), count=1)
    exchange, handover = y_buffer, empty
    if PARTS == 1:
        exchange = gl.allocate_shared_memory(gl.int32, [ROWS * BLOCK_M], group_desc.layout)
        handover = gl.allocate_shared_memory(gl.int64, [2, 1], BARRIER)
        mbarrier.init(handover.index(0), count=1)
        mbarrier.init(handover.index(1), count=1)
    fence_async_shared()
    gdc_launch_dependents()
    rings = (w_ring, group_ring, x_rings, scale_ring, sum_ring)
    barriers = (full, empty, turns, handover)
    buffers = (y_buffer, exchange)
    work = (tiles_m, tiles_n, steps, share)
    out = (y_desc, w_scale_ptr, zero_ptr, bias_ptr, partial_ptr, counter_ptr, N)
    # fmt: off
    gl.warp_specialize(
        [
            (_multiply, (0, out, rings, buffers, barriers, work, BLOCK_M, GROUPS, STAGES,
                         BOXES, PARTS, HEIGHT, HAS_BIAS, IS_GATED, TAKES_TURNS)),
            (_multiply, (1, out, rings, buffers, barriers, work, BLOCK_M, GROUPS, STAGES,
                         BOXES, PARTS, HEIGHT, HAS_BIAS, IS_GATED, TAKES_TURNS)),
            (_fetch_weights, (w_desc, group_desc, rings, barriers, num_boxes, work, GROUPS,
                              STAGES, BOXES, PARTS, HEIGHT)),
            (_fetch_activations, (x_descs, scale_desc, sum_desc, rings, barriers, work, BLOCK_M,
                                  GROUPS, STAGES, BOXES)),
        ],
        [4, 1, 1],
        [MULTIPLY_REGISTERS, FETCH_REGISTERS, FETCH_REGISTERS],
    )
    # fmt: on
