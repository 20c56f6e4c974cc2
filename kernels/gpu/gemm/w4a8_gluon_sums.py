"""What becomes of the int32 sums of a tile in ``w4a8_gluon_kernel``: added to those of the other
warp group and of other blocks, and stored.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language.extra.cuda import gdc_wait

from qoq.kernels.gpu.gemm.w4a8_gluon_products import first_row
from qoq.kernels.gpu.silu_mul import silu_mul
from qoq.kernels.gpu.triton_versions import async_store, thread_barrier

ROWS: gl.constexpr = gl.constexpr(64)  # channels of a box, and of a store


@gluon.jit
def give_sums(acc, exchange, handover, turn):
    """To the first warp group, once it took those of the tile before. ``turn`` is 0 and 1 for tiles
    in turn.
    """
    mbarrier.wait(handover.index(1), turn ^ 1)
    exchange.store(_by_thread(acc))
    thread_barrier()
    mbarrier.arrive(handover.index(0), count=1)


@gluon.jit
def take_sums(acc, exchange, handover, turn):
    """``acc`` and what the second warp group gave."""
    mbarrier.wait(handover.index(0), turn)
    sums = _by_thread(acc)
    sums += exchange.load(sums.type.layout)
    thread_barrier()
    mbarrier.arrive(handover.index(1), count=1)
    return _by_place(sums, acc)


@gluon.jit
def own_share():
    """Which share of all stages this block has. The last block has the first: blocks wait for what
    lower ones leave, and these start before them.
    """
    return gl.num_programs(0) - 1 - gl.program_id(0)


@gluon.jit
def leave_share(
    accs,
    partial_ptr,
    counter_ptr,
    tile,
    SHARE: gl.constexpr,
    PART: gl.constexpr,
    PARTS: gl.constexpr,
):
    """The ``SHARE`` sums of a tile's later steps, to the block that has its first."""
    gdc_wait()  # the kernel in front uses the same workspace
    for strip in gl.static_range(len(accs)):
        sums = _by_thread(accs[strip])
        element = gl.arange(0, sums.shape[0], sums.type.layout)
        place = (own_share() * PARTS + PART) * SHARE + first_row(sums.shape[0], SHARE)
        gl.store(partial_ptr + place + element, sums)
    thread_barrier()
    gl.atomic_add(counter_ptr + tile * PARTS + PART, 1, sem="release")


@gluon.jit
def collect_shares(
    accs,
    partial_ptr,
    counter_ptr,
    tile,
    steps,
    share,
    SHARE: gl.constexpr,
    PART: gl.constexpr,
    PARTS: gl.constexpr,
):
    """``accs``, the sums of a tile's first steps, and those that other blocks leave. It is the last
    that this block does and the first that they did. Sets the counter back to 0.
    """
    gdc_wait()
    first = tile * steps // share
    last = (tile * steps + steps - 1) // share
    counter = counter_ptr + tile * PARTS + PART
    while gl.atomic_add(counter, 0, sem="acquire") < last - first:
        pass
    collected = []
    for strip in gl.static_range(len(accs)):
        sums = _by_thread(accs[strip])
        for other in range(first + 1, last + 1):
            place = (other * PARTS + PART) * SHARE + first_row(sums.shape[0], SHARE)
            sums = _add(sums, partial_ptr + place, 8192 if sums.shape[0] == 8192 else 4096)
        collected += [_by_place(sums, accs[strip])]
    gl.store(counter, 0)
    return collected


@gluon.jit
def _add(sums, partial_ptr, LIMIT: gl.constexpr):
    """``sums`` and what is stored there, ``LIMIT`` at a time: more find no registers."""
    SIZE: gl.constexpr = sums.shape[0]
    if SIZE > LIMIT:
        first, second = gl.split(gl.permute(gl.reshape(sums, [2, SIZE // 2]), [1, 0]))
        first = _add(first, partial_ptr, LIMIT)
        second = _add(second, partial_ptr + SIZE // 2, LIMIT)
        both = gl.permute(gl.join(first, second), [1, 0])
        return gl.convert_layout(gl.reshape(both, [SIZE]), sums.type.layout, assert_trivial=True)
    else:
        element = gl.arange(0, SIZE, sums.type.layout)
        return sums + gl.load(partial_ptr + element, cache_modifier=".cg")


@gluon.jit
def _by_thread(acc):
    """Sums [channels, tokens] in one dimension: four of a thread, then those of the next."""
    HEIGHT: gl.constexpr = acc.shape[0]
    BLOCK_M: gl.constexpr = acc.shape[1]
    words = gl.reshape(acc, [HEIGHT // 64, 4, 2, 8, BLOCK_M // 8, 4, 2])
    return gl.reshape(gl.permute(words, [0, 4, 1, 3, 5, 2, 6]), [HEIGHT * BLOCK_M])


@gluon.jit
def _by_place(sums, like):
    """Back from ``_by_thread``, as ``like``."""
    HEIGHT: gl.constexpr = like.shape[0]
    BLOCK_M: gl.constexpr = like.shape[1]
    words = gl.reshape(sums, [HEIGHT // 64, BLOCK_M // 8, 4, 8, 4, 2, 2])
    acc = gl.reshape(gl.permute(words, [0, 2, 5, 3, 1, 4, 6]), [HEIGHT, BLOCK_M])
    return gl.convert_layout(acc, like.type.layout, assert_trivial=True)


@gluon.jit
def store_strip(
    acc,
    column,
    w_scale,
    out,
    lines,
    row,
    part,
    buffer,
    BLOCK_M: gl.constexpr,
    GROUPS: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    IS_GATED: gl.constexpr,
):
    """A strip's sums, scaled, to their place: the tile begins at ``row``, ``column`` are those of
    its ``part`` of the channels, and ``lines`` the scales and the sums of the tile's tokens.
    """
    y_desc, _w_scale, zero_ptr, bias_ptr, _partials, _counters, N = out
    scales, sums = lines
    MMA: gl.constexpr = acc.type.layout
    STRIP: gl.constexpr = acc.shape[1]
    START: gl.constexpr = first_row(STRIP, BLOCK_M)
    tokens: gl.constexpr = gl.SliceLayout(0, MMA)
    column = gl.convert_layout(column, gl.SliceLayout(1, MMA), assert_trivial=True)
    w_scale = gl.convert_layout(w_scale, gl.SliceLayout(1, MMA), assert_trivial=True)
    x_scale = scales.slice(START, STRIP, dim=0).load(tokens)
    if GROUPS == 0:
        zero = gl.load(zero_ptr + column, mask=column < N, other=0).to(gl.int32)
        x_sum = sums.slice(START, STRIP, dim=0).load(tokens)
        acc -= gl.expand_dims(zero, 1) * gl.expand_dims(x_sum, 0)
    y = acc.to(gl.float32) * (gl.expand_dims(x_scale, 0) * gl.expand_dims(w_scale, 1))
    if HAS_BIAS:
        bias = gl.load(bias_ptr + column, mask=column < N, other=0.0).to(gl.float32)
        y += gl.expand_dims(bias, 1)
    y = y.to(y_desc.dtype)
    if IS_GATED:
        y = _gated(y)
    _store_rows(y, y_desc, row + START, part * y.shape[0], buffer)


@gluon.jit
def _gated(y):
    """``silu(gate) * up`` [channels / 2, tokens], eight channels of gate and of up in turn."""
    HEIGHT: gl.constexpr = y.shape[0]
    BLOCK_M: gl.constexpr = y.shape[1]
    pairs = gl.permute(gl.reshape(y, [HEIGHT // 16, 2, 8, BLOCK_M]), [0, 2, 3, 1])
    gate, up = gl.split(pairs)
    values = silu_mul(gate.to(gl.float32), up.to(gl.float32)).to(y.dtype)
    return gl.reshape(values, [HEIGHT // 2, BLOCK_M])


@gluon.jit
def _store_rows(y, y_desc, row, column, buffer):
    """``y`` [channels, tokens] to its place, as much as ``buffer`` holds at a time."""
    if y.shape[0] > ROWS:
        parts = gl.permute(gl.reshape(y, [2, ROWS, y.shape[1]]), [1, 2, 0])
        y_first, y_second = gl.split(parts)
        _store_rows(y_first, y_desc, row, column, buffer)
        _store_rows(y_second, y_desc, row, column + ROWS, buffer)
    elif y.shape[1] > buffer.shape[0]:
        HALF: gl.constexpr = y.shape[1] // 2
        parts = gl.permute(gl.reshape(y, [y.shape[0], 2, HALF]), [0, 2, 1])
        y_first, y_second = gl.split(parts)
        _store_rows(y_first, y_desc, row, column, buffer)
        _store_rows(y_second, y_desc, row + HALF, column, buffer)
    else:
        _store(y, y_desc, row, column, buffer.slice(0, y.shape[1], dim=0))


@gluon.jit
def _store(y, y_desc, row, column, buffer):
    """Through ``buffer``, which the last store may hold, by TMA's boxes."""
    tma.store_wait(0)
    thread_barrier()
    buffer.permute([1, 0]).store(y)
    fence_async_shared()
    thread_barrier()
    BOX: gl.constexpr = y_desc.block_shape[0]
    for start in gl.static_range(0, y.shape[1], BOX):
        box = buffer.slice(start, BOX, dim=0)
        async_store(y_desc, [row + start, column], box)
