"""The portable W4A8 kernel without what makes it fast, for the bench alone.

Groups are of 128 channels, one a step. Everything that a variant does not take away is as in
``w4a8_triton``: tiles, stages, the split of K, the epilogue.
"""

import triton
import triton.language as tl

from qoq.kernels.gpu.gemm.gemm_tile import place_tile, store_scaled, sum_splits
from qoq.kernels.gpu.gemm.w4a8_triton import _dequantize


@triton.jit
def rows_as_stored_kernel(
    x_ptr,
    w_ptr,
    group_ptr,
    x_scale_ptr,
    w_scale_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    stride_x,
    stride_w,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """Weights in the order of the checkpoint, uint8 ``[N, K / 2]``: a row's 64 bytes of a step lie
    ``stride_w`` from the next row's, and two neighbours in K, which share a byte, are brought
    together again in registers. Groups are in the order of the boxes.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    tile_m, tile_n = place_tile(tile, M, N, BLOCK_M, BLOCK_N)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_m = tl.where(row < M, row, 0).to(tl.int64)
    row_n = tl.where(column < N, column, 0).to(tl.int64)
    first = split * STEPS
    w_ptrs = w_ptr + row_n[:, None] * stride_w + first * 64 + tl.arange(0, 64)[None, :]
    box = (column // 64).to(tl.int64) * (STEPS * SPLIT_K) + first
    group_ptrs = group_ptr + box * 64 + column % 64
    x_ptrs = x_ptr + row_m[None, :] * stride_x + first * 128 + tl.arange(0, 128)[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for _ in range(STEPS):
        w = tl.load(w_ptrs)
        group = tl.load(group_ptrs)
        scale = tl.broadcast_to((group & 0xFF)[:, None], w.shape)
        offset = tl.broadcast_to((group >> 8)[:, None], w.shape)
        even = _dequantize(w, scale, offset, False, False)
        odd = _dequantize(w, scale, offset, True, False)
        weight = tl.join(even, odd).reshape(BLOCK_N, 128)
        acc = tl.dot(weight, tl.load(x_ptrs), acc, out_dtype=tl.int32)
        w_ptrs += 64
        group_ptrs += 64
        x_ptrs += 128
    acc, is_last = sum_splits(acc, partial_ptr, counter_ptr, tile, split, BLOCK_M, BLOCK_N, SPLIT_K)
    if is_last:
        store_scaled(acc, row, tile_n, x_scale_ptr, w_scale_ptr, y_ptr, y_ptr, M, N, False)


@triton.jit
def float_groups_kernel(
    x_ptr,
    w_ptr,
    group_ptr,
    x_scale_ptr,
    w_scale_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    stride_x,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_K: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):
    """4-bit weights without the INT8 level: a group's scale is no integer, so the INT32 sum of each
    group is converted and scaled inside the main loop. Weights are ``(q - 8) * scale``, in boxes;
    ``group_ptr`` is fp32 ``[N / 64, K / 128, 64]``, a sixteenth of the scale.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    tile_m, tile_n = place_tile(tile, M, N, BLOCK_M, BLOCK_N)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_m = tl.where(row < M, row, 0).to(tl.int64)
    half = tl.arange(0, 64)
    first = split * STEPS
    box = (column // 64).to(tl.int64) * (STEPS * SPLIT_K) + first
    w_ptrs = w_ptr + (box * 64 + column % 64)[:, None] * 64 + half[None, :]
    group_ptrs = group_ptr + box * 64 + column % 64
    x_ptrs = x_ptr + row_m[None, :] * stride_x + first * 128 + half[:, None]
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    scale = tl.load(group_ptrs)
    for step in range(STEPS):
        # Triton copies ahead of time only what a product reads.
        group_ptrs += 64
        next_scale = tl.load(group_ptrs, mask=step + 1 < STEPS, other=0.0)
        low, high = _signed_nibbles(tl.load(w_ptrs), ASSEMBLY)
        acc = tl.dot(low, tl.load(x_ptrs), out_dtype=tl.int32)
        acc = tl.dot(high, tl.load(x_ptrs + 64), acc, out_dtype=tl.int32)
        total += acc.to(tl.float32) * scale[:, None]
        scale = next_scale
        w_ptrs += 4096
        x_ptrs += 128
    total, is_last = sum_splits(
        total, partial_ptr, counter_ptr, tile, split, BLOCK_M, BLOCK_N, SPLIT_K
    )
    if is_last:
        store_scaled(total, row, tile_n, x_scale_ptr, w_scale_ptr, y_ptr, y_ptr, M, N, False)


@triton.jit
def _signed_nibbles(w, ASSEMBLY: tl.constexpr):
    """``16 * (q - 8)`` int8 of low and high nibbles: no format unpacks with less."""
    if not ASSEMBLY:
        return ((w << 4) ^ 0x80).to(tl.int8), ((w & 0xF0) ^ 0x80).to(tl.int8)
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 t;
        shl.b32 t, $2, 4;
        lop3.b32 $0, t, 0xF0F0F0F0, 0x80808080, 0x6A;
        lop3.b32 $1, $2, 0xF0F0F0F0, 0x80808080, 0x6A;
        }""",
        "=r,=r,r",
        [w],
        dtype=(tl.int8, tl.int8),
        is_pure=True,
        pack=4,
    )
